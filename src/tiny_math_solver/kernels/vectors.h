// Number types, and arithmetic on LANES floats at once (SIMD). compiler.py builds one library of all files for this
// processor and one model's shape: it defines HEADS, KV_HEADS, HEAD_DIM and, for activations and caches in bfloat16,
// BFLOAT16. Sums are in float32, in an order that does not depend on the batch.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12;  // floats in a register; rows whose sums fit into the registers
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 6;
#else
constexpr int LANES = 4, TILE = 8;
#endif
constexpr int PANEL = 2 * LANES;  // columns of a weight that are stored together; a block of the cache is LANES tokens
constexpr int QUERIES = HEADS / KV_HEADS;  // query heads that share a key-value head
static_assert(HEAD_DIM % LANES == 0, "HEAD_DIM must be a multiple of LANES");

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vec_i32 __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vec_u32 __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vec_u16 __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// -- scalar: an element of activations and caches -------------------------------------------------------------------

#ifdef BFLOAT16
typedef uint16_t scalar;
static inline vec load(const scalar* p) {
    vec_u32 w = __builtin_convertvector(*(const vec_u16*)p, vec_u32) << 16;
    return (vec)w;
}
static inline void store(scalar* p, vec x) {  // rounds to nearest, ties to even
#ifdef __AVX512BF16__
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    memcpy(p, &rounded, sizeof rounded);
#else
    vec_u32 w = (vec_u32)x;
    *(vec_u16*)p = __builtin_convertvector((w + 0x7fff + ((w >> 16) & 1)) >> 16, vec_u16);
#endif
}
static inline float to_float(scalar x) {
    uint32_t w = (uint32_t)x << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
}
static inline scalar to_scalar(float f) {
    uint32_t w;
    memcpy(&w, &f, 4);
    return (scalar)((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}
static inline scalar to_scalar(scalar x) { return x; }
#else
typedef float scalar;
static inline float to_float(scalar x) { return x; }
static inline scalar to_scalar(float f) { return f; }
#endif
static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }

static inline float horizontal_sum(vec x) {
#if defined(BFLOAT16) && defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);  // in pairs: faster than one after the other
#else
    float s = 0;
    for (int i = 0; i < LANES; i++) s += x[i];
    return s;
#endif
}
static inline float horizontal_max(vec x) {
    float m = x[0];
    for (int i = 1; i < LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}
// a / b; in bfloat16 for b ≥ 1 and to 23 bits, in a third of the time.
static inline vec quotient(vec a, vec b) {
#if defined(BFLOAT16) && defined(__AVX512F__)
    vec y = (vec)_mm512_rcp14_ps((__m512)b);
    return a * y * (2 - b * y);
#else
    return a / b;
#endif
}
static inline vec maximum(vec a, vec b) { return a > b ? a : b; }
static inline vec broadcast(float x) { return x - (vec){}; }

// e^x for x ≤ 0, with a relative error below 3e-7: 2^n times the Taylor series of 2^f, f in [-0.5, 0.5].
static inline vec exp_nonpositive(vec power) {
    vec x = maximum(power, broadcast(-87.0f)) * 1.44269504f;
    vec_i32 n = __builtin_convertvector(x - 0.5f, vec_i32);  // truncates; x ≤ 0, so this rounds to nearest
    vec f = x - __builtin_convertvector(n, vec);
    vec y = broadcast(1.5252734e-5f);
    y = y * f + 1.5403530e-4f;
    y = y * f + 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.0f;
    return power < -87.0f ? broadcast(0) : (vec)((vec_i32)y + (n << 23));
}

// σ(power) · factor, with the exponential of the negative side only, which does not overflow.
static inline vec times_sigmoid(vec factor, vec power) {
    vec e = exp_nonpositive(power > 0 ? -power : power);
    return quotient(factor * (power > 0 ? broadcast(1) : e), 1 + e);
}

// linear · x + cubic · x³.
template <bool has_cube>
static inline vec gate_power(vec x, float linear, float cubic) {
    return has_cube ? x * (linear + cubic * x * x) : linear * x;
}

// cap · tanh(x / cap), with a relative error below 2e-6.
static inline vec soft_cap(vec x, float cap) {
    vec y = x * (1 / cap), size = y > 0 ? y : -y, square = y * y;
    vec e = exp_nonpositive(-2 * size), far = (1 - e) / (1 + e);
    vec near = size * (1 + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315))));
    vec tanh = size < 0.25f ? near : far;
    return cap * (y > 0 ? tanh : -tanh);
}

// out [C] = x / rms(x) · weight.
static inline void rms_norm_row(const scalar* x, const float* weight, float eps, long C, scalar* out) {
    vec squares = {};
    for (long c = 0; c < C; c += LANES) squares += load(x + c) * load(x + c);
    float scale = 1 / __builtin_sqrtf(horizontal_sum(squares) / C + eps);
    for (long c = 0; c < C; c += LANES) store(out + c, load(x + c) * scale * load(weight + c));
}
