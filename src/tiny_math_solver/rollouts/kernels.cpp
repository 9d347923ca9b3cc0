// One decode step of a Qwen2-like model on a CPU, an operator a function, every row by itself.
//
// Compiled for this processor and one model's shape by kernels.py, which defines HEADS, KV_HEADS, HEAD_DIM and, where
// activations and caches are in bfloat16, BFLOAT16. Sums are in float32 and taken in an order that does not depend on
// the batch, so a row's result is the same to the bit whoever its neighbours are.
//
// A slot is a place in the batch: slots 0 … rows-1 are running. Its completion has a row of the cache to itself
// (`cache[slot]`), and shares the keys and values of its prompt with the other samples (`group[slot]`).
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILE = 12;  // floats in a register; rows whose sums fit into the registers
#elif defined(__AVX2__)
constexpr int WIDTH = 8, TILE = 6;
#else
constexpr int WIDTH = 4, TILE = 8;
#endif
constexpr int PANEL = 2 * WIDTH;  // columns of a weight that are kept together
constexpr int LANES = 16;         // tokens of a cache block, and numbers worked on at once outside the products
constexpr int SHARE = HEADS / KV_HEADS;
static_assert(HEAD_DIM % LANES == 0, "a head is a whole number of blocks");

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
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

// -- Products ------------------------------------------------------------------------------------------------------

// `out[r, 0 … PANEL)` for R rows, from a panel of the weight `[K, PANEL]`.
template <int R>
static void tile(const float* x, long K, const float* panel, const float* bias, const float* add, float* out, long N) {
    vec left[R], right[R];
    for (int r = 0; r < R; r++) left[r] = *(const vec*)bias, right[r] = *(const vec*)(bias + WIDTH);
    for (long k = 0; k < K; k++) {
        vec a = *(const vec*)(panel + k * PANEL), b = *(const vec*)(panel + k * PANEL + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float factor = x[r * K + k];
            left[r] += factor * a, right[r] += factor * b;
        }
    }
    for (int r = 0; r < R; r++) {
        if (add) left[r] += *(const vec*)(add + r * N), right[r] += *(const vec*)(add + r * N + WIDTH);
        *(vec*)(out + r * N) = left[r], *(vec*)(out + r * N + WIDTH) = right[r];
    }
}

template <int R>
static void tile_of(long r, const float* x, long K, const float* panel, const float* bias, const float* add, float* out,
                    long N) {
    if (r == R) tile<R>(x, K, panel, bias, add, out, N);
    else if constexpr (R > 1) tile_of<R - 1>(r, x, K, panel, bias, add, out, N);
}

extern "C" long panel_columns() { return PANEL; }

// out [rows, N] = x [rows, K] · weight + bias (+ add [rows, N]); the weight in N / PANEL panels of [K, PANEL].
extern "C" void linear(long rows, const float* x, long K, const float* panels, const float* bias, const float* add,
                       float* out, long N) {
    long blocks = (rows + TILE - 1) / TILE;
#pragma omp parallel for collapse(2) schedule(static)
    for (long n = 0; n < N; n += PANEL)
        for (long block = 0; block < blocks; block++) {
            long first = rows * block / blocks, last = rows * (block + 1) / blocks;
            tile_of<TILE>(last - first, x + first * K, K, panels + n * K, bias + n, add ? add + first * N + n : nullptr,
                          out + first * N + n, N);
        }
}

// -- Between the products ------------------------------------------------------------------------------------------

// x [rows, C] = the embedding of each row's last token.
extern "C" void embed(long rows, const int64_t* tokens, long columns, const int64_t* made, const number* embedding,
                      long C, number* x) {
    for (long r = 0; r < rows; r++)
        memcpy(x + r * C, embedding + tokens[r * columns + made[r] - 1] * C, C * sizeof(number));
}

static void normalise(const number* x, const number* weight, float eps, long C, number* out) {
    lanes squares = {};
    for (long c = 0; c < C; c += LANES) squares += load(x + c) * load(x + c);
    float scale = 1 / __builtin_sqrtf(sum(squares) / C + eps);
    for (long c = 0; c < C; c += LANES) store(out + c, load(x + c) * scale * load(weight + c));
}

// Root mean square norm.
extern "C" void norm(long rows, const number* x, const number* weight, float eps, long C, number* out) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) normalise(x + r * C, weight, eps, C, out + r * C);
}

// out [rows, M] = silu(gate) · up, of gate_up [rows, 2 M].
extern "C" void gate(long rows, const number* gate_up, long M, number* out) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long m = 0; m < M; m += LANES) {
            lanes g = load(gate_up + r * 2 * M + m), u = load(gate_up + r * 2 * M + M + m);
            lanes e = exponential(g > 0 ? -g : g);  // silu(g) = g · (g > 0 ? 1 : e) / (1 + e), e = exp(-|g|)
            store(out + r * M + m, g * (g > 0 ? all(1) : e) / (1 + e) * u);
        }
}

// -- Attention -----------------------------------------------------------------------------------------------------

// Scores of SHARE queries with the keys of tokens 0 … count-1, kept as blocks of [HEAD_DIM, LANES]; -inf behind them.
static void score(const float (*query)[HEAD_DIM], const number* keys, long count, float* scores, long stride) {
    for (long t = 0; t < count; t += LANES, keys += HEAD_DIM * LANES) {
        lanes total[SHARE] = {};
        for (int d = 0; d < HEAD_DIM; d++) {
            lanes key = load(keys + d * LANES);
            for (int s = 0; s < SHARE; s++) total[s] += query[s][d] * key;
        }
        for (int s = 0; s < SHARE; s++) *(lanes*)(scores + s * stride + t) = total[s];
    }
    for (int s = 0; s < SHARE; s++)
        for (long t = count; t % LANES; t++) scores[s * stride + t] = -__builtin_inff();
}

static void mix(const float* shares, long stride, const number* values, long count,
                lanes (*out)[HEAD_DIM / LANES]) {
    for (long t = 0; t < count; t++, values += HEAD_DIM)
        for (int i = 0; i < HEAD_DIM / LANES; i++) {
            lanes value = load(values + i * LANES);
            for (int s = 0; s < SHARE; s++) out[s][i] += shares[s * stride + t] * value;
        }
}

// Turn pairs (2i, 2i+1) of a head by the angle of its position; `turn` holds cosine and sine of each pair.
static void rotate(const number* head, const number* weight, float eps, const float* turn, float scale, float* out) {
    number normed[HEAD_DIM];
    if (weight) normalise(head, weight, eps, HEAD_DIM, normed), head = normed;
    for (int d = 0; d < HEAD_DIM; d += 2) {
        float a = one(head[d]) * scale, b = one(head[d + 1]) * scale;
        out[d] = a * turn[d] - b * turn[d + 1], out[d + 1] = a * turn[d + 1] + b * turn[d];
    }
}

static inline long padded(long tokens) { return (tokens + LANES - 1) / LANES * LANES; }

// Put a token's rotated key and its value into the caches at place `t`.
static void keep(const float* key, const number* value, long t, number* keys, number* values) {
    number* column = keys + t / LANES * LANES * HEAD_DIM + t % LANES;
    for (int d = 0; d < HEAD_DIM; d++) column[d * LANES] = rounded(key[d]);
    memcpy(values + t * HEAD_DIM, value, HEAD_DIM * sizeof(number));
}

// Keys (already rotated) and values of prompts, [prompts, length, KV_HEADS, HEAD_DIM] each, into the cache of groups.
extern "C" void keep_prompts(long prompts, long length, const number* key, const number* value, const int64_t* groups,
                             number* keys, number* values, long capacity) {
    long size = padded(capacity) * HEAD_DIM;
#pragma omp parallel for collapse(2) schedule(static)
    for (long p = 0; p < prompts; p++)
        for (long h = 0; h < KV_HEADS; h++)
            for (long t = 0; t < length; t++) {
                long from = ((p * length + t) * KV_HEADS + h) * HEAD_DIM, to = (groups[p] * KV_HEADS + h) * size;
                float exact[HEAD_DIM];
                for (int d = 0; d < HEAD_DIM; d++) exact[d] = one(key[from + d]);
                keep(exact, value + from, t, keys + to, values + to);
            }
}

// out [rows, HEADS · HEAD_DIM] = attention of each row's new token over its prompt and completion; the token's own key
// and value are added to the cache. qkv [rows, HEADS + 2 KV_HEADS, HEAD_DIM], turns [positions, HEAD_DIM].
extern "C" void attend(long rows, const number* qkv, const float* turns, const number* query_norm,
                       const number* key_norm, float eps, float scale, const int64_t* group,
                       const int64_t* prompt_length, const int64_t* cache, const int64_t* made, number* prompt_keys,
                       number* prompt_values, long prompt_capacity, number* own_keys, number* own_values,
                       long own_capacity, number* out) {
    long prompt_size = padded(prompt_capacity) * HEAD_DIM, own_size = padded(own_capacity) * HEAD_DIM;
#pragma omp parallel for collapse(2) schedule(static)
    for (long r = 0; r < rows; r++)
        for (long h = 0; h < KV_HEADS; h++) {
            long length = prompt_length[r], own = made[r], first = padded(length), stride = first + padded(own);
            const number* row = qkv + r * (HEADS + 2 * KV_HEADS) * HEAD_DIM;
            const float* turn = turns + (length + own - 1) * HEAD_DIM;
            number *keys = own_keys + (cache[r] * KV_HEADS + h) * own_size,
                   *values = own_values + (cache[r] * KV_HEADS + h) * own_size;
            long prompt = (group[r] * KV_HEADS + h) * prompt_size;
            float query[SHARE][HEAD_DIM], key[HEAD_DIM], scores[SHARE * stride];
            for (int s = 0; s < SHARE; s++)
                rotate(row + (h * SHARE + s) * HEAD_DIM, query_norm, eps, turn, scale, query[s]);
            rotate(row + (HEADS + h) * HEAD_DIM, key_norm, eps, turn, 1, key);
            keep(key, row + (HEADS + KV_HEADS + h) * HEAD_DIM, own - 1, keys, values);

            score(query, prompt_keys + prompt, length, scores, stride);
            score(query, keys, own, scores + first, stride);
            lanes mixed[SHARE][HEAD_DIM / LANES] = {};
            float total[SHARE];
            for (int s = 0; s < SHARE; s++) {
                lanes highest = all(-__builtin_inff()), shares = {};
                lanes* of = (lanes*)(scores + s * stride);
                for (long i = 0; i < stride / LANES; i++) highest = larger(highest, of[i]);
                float top = largest(highest);
                for (long i = 0; i < stride / LANES; i++) shares += of[i] = exponential(of[i] - top);
                total[s] = sum(shares);
            }
            mix(scores, stride, prompt_values + prompt, length, mixed);
            mix(scores + first, stride, values, own, mixed);
            for (int s = 0; s < SHARE; s++)
                for (int i = 0; i < HEAD_DIM / LANES; i++)
                    store(out + ((r * HEADS) + h * SHARE + s) * HEAD_DIM + i * LANES, mixed[s][i] / total[s]);
        }
}

// -- The draw ------------------------------------------------------------------------------------------------------

// Each row's next token, from logits of V tokens (in row `source[r]`, or r) and one uniform number, where the running
// sum of probabilities passes it; without uniforms the likeliest token. Rows that are done stay as they are.
extern "C" void draw(long rows, const number* logits, const int64_t* source, long stride, long V, float sharpness,
                     const float* uniform, const int64_t* eos, long eos_count, long limit, long columns,
                     int64_t* tokens, float* logprobs, int64_t* made, bool* done) {
    long whole = V / LANES * LANES, blocks = (V + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        if (done[r]) continue;
        const number* row = logits + (source ? source[r] : r) * stride;
        lanes highest = all(-__builtin_inff());
        for (long v = 0; v < whole; v += LANES) highest = larger(highest, load(row + v));
        float top = largest(highest), total = 0;
        for (long v = whole; v < V; v++) top = one(row[v]) > top ? one(row[v]) : top;
        float ends[blocks];  // the running sum up to the end of each block
        lanes shares;
        auto weigh = [&](long block) {
            number last[LANES];
            const number* from = row + block * LANES;
            if (block * LANES == whole) {
                for (int i = 0; i < LANES; i++) last[i] = whole + i < V ? from[i] : rounded(-__builtin_inff());
                from = last;
            }
            shares = exponential((load(from) - top) * sharpness);
            if (block * LANES == whole)  // what is not there must weigh nothing at all
                for (long i = V - whole; i < LANES; i++) shares[i] = 0;
        };
        for (long block = 0; block < blocks; block++) {
            weigh(block);
            ends[block] = total += sum(shares);
        }
        long token = 0, place = r * columns + made[r];
        if (uniform) {
            float target = uniform[place] * total, before = 0;
            long low = 0, high = blocks - 1;
            while (low < high) {
                long middle = (low + high) / 2;
                if (ends[middle] > target) high = middle;
                else low = middle + 1;
            }
            weigh(low);
            if (low) before = ends[low - 1];
            long i = 0, likely = 0;
            for (; i < LANES; i++) {
                if (shares[i] > 0) likely = i;  // rounding may leave the target behind the last of them
                if ((before += shares[i]) > target) break;
            }
            token = low * LANES + (i < LANES ? i : likely);
        } else {
            while (token < V - 1 && one(row[token]) != top) token++;
        }
        tokens[place] = token;
        logprobs[place] = (one(row[token]) - top) * sharpness - __builtin_logf(total);
        bool ended = ++made[r] >= limit;
        for (long e = 0; e < eos_count; e++) ended |= token == eos[e];
        done[r] = ended;
    }
}
