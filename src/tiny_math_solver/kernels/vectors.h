// Numbers, and work on LANES of them at once. Every file includes this; one library is made of them all, for this
// processor and one model's shape, by __init__.py, which defines HEADS, KV_HEADS, HEAD_DIM and, where activations and
// caches are in bfloat16, BFLOAT16. Sums are in float32 and taken in an order that does not depend on the batch.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12;  // floats of a register; rows whose sums fit into the registers
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 6;
#else
constexpr int LANES = 4, TILE = 8;
#endif
constexpr int PANEL = 2 * LANES;  // columns of a weight that are kept together; a block of the cache is LANES tokens
constexpr int SHARE = HEADS / KV_HEADS;
static_assert(HEAD_DIM % LANES == 0, "a head is a whole number of blocks");

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// -- Numbers as they are stored ------------------------------------------------------------------------------------

#ifdef BFLOAT16
typedef uint16_t number;
static inline lanes load(const number* p) {
    words w = __builtin_convertvector(*(const halves*)p, words) << 16;
    return (lanes)w;
}
static inline void store(number* p, lanes x) {  // to the nearest, ties to even
    words w = (words)x;
    *(halves*)p = __builtin_convertvector((w + 0x7fff + ((w >> 16) & 1)) >> 16, halves);
}
static inline float one(number x) {
    uint32_t w = (uint32_t)x << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
}
static inline number rounded(float f) {
    uint32_t w;
    memcpy(&w, &f, 4);
    return (number)((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}
#else
typedef float number;
static inline lanes load(const number* p) { return *(const lanes*)p; }
static inline void store(number* p, lanes x) { *(lanes*)p = x; }
static inline float one(number x) { return x; }
static inline number rounded(float f) { return f; }
#endif

static inline float sum(lanes x) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += x[i];
    return s;
}
static inline float largest(lanes x) {
    float m = x[0];
    for (int i = 1; i < LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}
static inline lanes larger(lanes a, lanes b) { return a > b ? a : b; }
static inline lanes all(float x) { return x - (lanes){}; }

// e^x for x ≤ 0, with a relative error below 3e-7: 2^n times the Taylor series of 2^f, f in [-0.5, 0.5].
static inline lanes exponential(lanes power) {
    lanes x = larger(power, all(-87.0f)) * 1.44269504f;
    ints n = __builtin_convertvector(x - 0.5f, ints);  // towards zero, so to the nearest
    lanes f = x - __builtin_convertvector(n, lanes);
    lanes y = all(1.5252734e-5f);
    y = y * f + 1.5403530e-4f;
    y = y * f + 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.0f;
    return power < -87.0f ? all(0) : (lanes)((ints)y + (n << 23));
}

// A row over its root mean square.
static inline void normalise(const number* x, const number* weight, float eps, long C, number* out) {
    lanes squares = {};
    for (long c = 0; c < C; c += LANES) squares += load(x + c) * load(x + c);
    float scale = 1 / __builtin_sqrtf(sum(squares) / C + eps);
    for (long c = 0; c < C; c += LANES) store(out + c, load(x + c) * scale * load(weight + c));
}
