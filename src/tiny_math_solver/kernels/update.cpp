// Forward and backward passes of the update, in float32, over tokens that lie one after the other without padding:
// of each group its prompt, then its rows (the completions, each without its last token).
//
//     group g    tokens group_start[g] … + group_length[g], rows group_rows[g] … group_rows[g + 1]
//     row r      tokens row_start[r] … + row_length[r]; their positions go on where the prompt ends
#ifndef BFLOAT16
#include <vector>

#include "attention.h"

// -- Products ------------------------------------------------------------------------------------------------------

template <int R>
static void add_tile(long T, const float* left, long N, const float* right, long K, float* out) {
    lanes a[R] = {}, b[R] = {};
    for (long t = 0; t < T; t++) {
        lanes p = *(const lanes*)(right + t * K), q = *(const lanes*)(right + t * K + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float factor = left[t * N + r];
            a[r] += factor * p, b[r] += factor * q;
        }
    }
    for (int r = 0; r < R; r++) *(lanes*)(out + r * K) += a[r], *(lanes*)(out + r * K + LANES) += b[r];
}

template <int R>
static void add_tile_of(long r, long T, const float* left, long N, const float* right, long K, float* out) {
    if (r == R) add_tile<R>(T, left, N, right, K, out);
    else if constexpr (R > 1) add_tile_of<R - 1>(r, T, left, N, right, K, out);
}

// out [N, K] += leftᵀ · right, of left [T, N] and right [T, K]: the gradient of a weight.
extern "C" void add_product(long T, const float* left, long N, const float* right, long K, float* out) {
    long blocks = (N + TILE - 1) / TILE;
#pragma omp parallel for collapse(2) schedule(static)
    for (long block = 0; block < blocks; block++)
        for (long k = 0; k < K; k += PANEL) {
            long first = N * block / blocks, last = N * (block + 1) / blocks;
            add_tile_of<TILE>(last - first, T, left + first, N, right + k, K, out + first * K + k);
        }
}

// -- Row by row ----------------------------------------------------------------------------------------------------

// slope [rows, C] (+)= the gradient behind a norm of x, from the one before it.
extern "C" void norm_backward(long rows, const float* x, const float* weight, float eps, long C, const float* before,
                              bool add, float* slope) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        const float *in = x + r * C, *from = before + r * C;
        lanes squares = {}, along = {};
        for (long c = 0; c < C; c += LANES) {
            squares += load(in + c) * load(in + c);
            along += load(in + c) * load(weight + c) * load(from + c);
        }
        float scale = 1 / __builtin_sqrtf(sum(squares) / C + eps), pull = scale * scale * scale * sum(along) / C;
        for (long c = 0; c < C; c += LANES) {
            lanes made = scale * load(weight + c) * load(from + c) - pull * load(in + c);
            store(slope + r * C + c, add ? load(slope + r * C + c) + made : made);
        }
    }
}

// slope [rows, 2 M] of gate_up, from the gradient `before` [rows, M] of silu(gate) · up.
extern "C" void gate_backward(long rows, const float* gate_up, long M, const float* before, float* slope) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long m = 0; m < M; m += LANES) {
            long at = r * 2 * M + m;
            lanes g = load(gate_up + at), u = load(gate_up + at + M), from = load(before + r * M + m);
            lanes e = exponential(g > 0 ? -g : g), share = (g > 0 ? all(1) : e) / (1 + e);  // of the sigmoid
            store(slope + at, from * u * share * (1 + g * (1 - share)));
            store(slope + at + M, from * g * share);
        }
}

// Turn queries and keys of qkv [rows, HEADS + 2 KV_HEADS, HEAD_DIM] by their positions, in place, and scale the
// queries; `back` gives a gradient behind the turn from one before it.
extern "C" void turn(long rows, float* qkv, const int64_t* positions, const float* turns, float scale, bool back) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (int h = 0; h < HEADS + KV_HEADS; h++) {
            float *head = qkv + (r * (HEADS + 2 * KV_HEADS) + h) * HEAD_DIM, factor = h < HEADS ? scale : 1;
            const float* angle = turns + positions[r] * HEAD_DIM;
            for (int d = 0; d < HEAD_DIM; d += 2) {
                float a = head[d] * factor, b = head[d + 1] * factor;
                float c = angle[d], s = back ? -angle[d + 1] : angle[d + 1];
                head[d] = a * c - b * s, head[d + 1] = a * s + b * c;
            }
        }
}

// Logits [rows, V] into the gradient of the target's log-probability, in place, and that log-probability itself.
extern "C" void choose(long rows, float* logits, long stride, long V, float sharpness, const int64_t* target,
                       float* logprob) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        float *row = logits + r * stride, top = row[0], total = 0, chosen = row[target[r]];
        for (long v = 1; v < V; v++) top = row[v] > top ? row[v] : top;
        lanes sums = {};
        long whole = V / LANES * LANES;
        for (long v = 0; v < whole; v += LANES) {
            lanes e = exponential((load(row + v) - top) * sharpness);
            store(row + v, e), sums += e;
        }
        for (long v = whole; v < V; v++) total += row[v] = exponential(all((row[v] - top) * sharpness))[0];
        total += sum(sums);
        logprob[r] = (chosen - top) * sharpness - __builtin_logf(total);
        float factor = -sharpness / total;
        for (long v = 0; v < V; v++) row[v] *= factor;
        for (long v = V; v < stride; v++) row[v] = 0;
        row[target[r]] += sharpness;
    }
}

// -- Attention -----------------------------------------------------------------------------------------------------

namespace {

constexpr long STRIDE = (HEADS + 2 * KV_HEADS) * HEAD_DIM;  // from token to token

// One head's keys and values of a prompt or a row: as blocks for scores, and token by token.
struct Past {
    long count;
    std::vector<float> key_blocks, value_blocks, keys, values, key_slopes, value_slopes;

    Past(const float* qkv, long start, long count, long head, bool backward) : count(count) {
        long size = padded(count) * HEAD_DIM;
        key_blocks.resize(size), values.resize(size);
        if (backward) value_blocks.resize(size), keys.resize(size), key_slopes.resize(size), value_slopes.resize(size);
        for (long t = 0; t < count; t++) {
            const float* key = qkv + (start + t) * STRIDE + (HEADS + head) * HEAD_DIM;
            const float* value = key + KV_HEADS * HEAD_DIM;
            keep(key, value, t, key_blocks.data(), values.data());
            if (backward) keep(value, key, t, value_blocks.data(), keys.data());
        }
    }

    void give(float* slopes, long start, long head) const {
        for (long t = 0; t < count; t++) {
            float* to = slopes + (start + t) * STRIDE + (HEADS + head) * HEAD_DIM;
            memcpy(to, key_slopes.data() + t * HEAD_DIM, HEAD_DIM * sizeof(float));
            memcpy(to + KV_HEADS * HEAD_DIM, value_slopes.data() + t * HEAD_DIM, HEAD_DIM * sizeof(float));
        }
    }
};

// out [count, HEAD_DIM] += Σ shares of SHARE vectors.
void spread(const float* shares, long stride, const float (*vectors)[HEAD_DIM], long count, float* out) {
    for (long t = 0; t < count; t++, out += HEAD_DIM)
        for (int i = 0; i < HEAD_DIM; i += LANES) {
            lanes total = load(out + i);
            for (int s = 0; s < SHARE; s++) total += shares[s * stride + t] * load(vectors[s] + i);
            store(out + i, total);
        }
}

struct Layout {
    const int64_t *group_start, *group_length, *group_rows, *row_start, *row_length;
};

// Call `visit(past, own, token, count)` for every token of a group: what it sees of the prompt, of its own segment the
// first `count` tokens; and `close(segment, start)` after the last token of a segment.
template <class Visit, class Close>
void each_token(const Layout& of, long group, const float* qkv, long head, bool backward, Visit visit, Close close) {
    Past prompt(qkv, of.group_start[group], of.group_length[group], head, backward);
    Past nothing(qkv, 0, 0, head, backward);
    for (long r = of.group_rows[group]; r < of.group_rows[group + 1]; r++) {
        Past own(qkv, of.row_start[r], of.row_length[r], head, backward);
        for (long t = 0; t < own.count; t++) visit(prompt, own, of.row_start[r] + t, t + 1);
        close(own, of.row_start[r]);
    }
    for (long t = 0; t < prompt.count; t++) visit(nothing, prompt, of.group_start[group] + t, t + 1);
    close(prompt, of.group_start[group]);
}

// The scores of a token's queries with all it sees, and how far apart those of two queries lie.
long scores_of(const float (*query)[HEAD_DIM], const std::vector<float>& past, long past_count,
               const std::vector<float>& own, long count, std::vector<float>& scores) {
    long first = padded(past_count), stride = first + padded(count);
    scores.resize(SHARE * stride);
    score(query, past.data(), past_count, scores.data(), stride);
    score(query, own.data(), count, scores.data() + first, stride);
    return stride;
}

}  // namespace

// out [tokens, HEADS · HEAD_DIM] = causal attention, and `log_sum` [tokens, HEADS] = log Σ e^score. qkv is turned.
extern "C" void attention(long groups, const int64_t* group_start, const int64_t* group_length,
                          const int64_t* group_rows, const int64_t* row_start, const int64_t* row_length,
                          const float* qkv, float* out, float* log_sum) {
    Layout layout{group_start, group_length, group_rows, row_start, row_length};
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (long g = 0; g < groups; g++)
        for (long h = 0; h < KV_HEADS; h++) {
            std::vector<float> scores;
            auto visit = [&](const Past& past, const Past& own, long token, long count) {
                auto query = (const float(*)[HEAD_DIM])(qkv + token * STRIDE + h * SHARE * HEAD_DIM);
                long stride = scores_of(query, past.key_blocks, past.count, own.key_blocks, count, scores);
                float highest, total[SHARE];
                for (int s = 0; s < SHARE; s++) {
                    exponentials(scores.data() + s * stride, stride, &highest, total + s);
                    log_sum[token * HEADS + h * SHARE + s] = highest + __builtin_logf(total[s]);
                }
                lanes mixed[SHARE][HEAD_DIM / LANES] = {};
                mix(scores.data(), stride, past.values.data(), past.count, mixed);
                mix(scores.data() + padded(past.count), stride, own.values.data(), count, mixed);
                for (int s = 0; s < SHARE; s++)
                    for (int i = 0; i < HEAD_DIM / LANES; i++)
                        store(out + (token * HEADS + h * SHARE + s) * HEAD_DIM + i * LANES, mixed[s][i] / total[s]);
            };
            each_token(layout, g, qkv, h, false, visit, [](const Past&, long) {});
        }
}

// slopes [tokens, HEADS + 2 KV_HEADS, HEAD_DIM] of the turned qkv, from those of `out`, `before`.
extern "C" void attention_backward(long groups, const int64_t* group_start, const int64_t* group_length,
                                   const int64_t* group_rows, const int64_t* row_start, const int64_t* row_length,
                                   const float* qkv, const float* out, const float* log_sum, const float* before,
                                   float* slopes) {
    Layout layout{group_start, group_length, group_rows, row_start, row_length};
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (long g = 0; g < groups; g++)
        for (long h = 0; h < KV_HEADS; h++) {
            std::vector<float> shares, pulls;
            auto visit = [&](Past& past, Past& own, long token, long count) {
                auto query = (const float(*)[HEAD_DIM])(qkv + token * STRIDE + h * SHARE * HEAD_DIM);
                long place = token * HEADS + h * SHARE;
                auto from = (const float(*)[HEAD_DIM])(before + place * HEAD_DIM);
                long first = padded(past.count);
                long stride = scores_of(query, past.key_blocks, past.count, own.key_blocks, count, shares);
                scores_of(from, past.value_blocks, past.count, own.value_blocks, count, pulls);
                for (int s = 0; s < SHARE; s++) {
                    lanes along = {};
                    for (int i = 0; i < HEAD_DIM; i += LANES)
                        along += load(from[s] + i) * load(out + (place + s) * HEAD_DIM + i);
                    float mean = sum(along);
                    for (long t = s * stride; t < (s + 1) * stride; t += LANES) {
                        lanes share = exponential(load(&shares[t]) - log_sum[place + s]);
                        store(&shares[t], share);
                        store(&pulls[t], share > 0 ? share * (load(&pulls[t]) - mean) : all(0));
                    }
                }
                lanes mixed[SHARE][HEAD_DIM / LANES] = {};
                mix(pulls.data(), stride, past.keys.data(), past.count, mixed);
                mix(pulls.data() + first, stride, own.keys.data(), count, mixed);
                for (int s = 0; s < SHARE; s++)
                    for (int i = 0; i < HEAD_DIM / LANES; i++)
                        store(slopes + token * STRIDE + (h * SHARE + s) * HEAD_DIM + i * LANES, mixed[s][i]);
                spread(pulls.data(), stride, query, past.count, past.key_slopes.data());
                spread(pulls.data() + first, stride, query, count, own.key_slopes.data());
                spread(shares.data(), stride, from, past.count, past.value_slopes.data());
                spread(shares.data() + first, stride, from, count, own.value_slopes.data());
            };
            each_token(layout, g, qkv, h, true, visit,
                       [&](const Past& done, long start) { done.give(slopes, start, h); });
        }
}
#endif
