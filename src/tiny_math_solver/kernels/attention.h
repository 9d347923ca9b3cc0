// Pieces of attention that decoding and training share. A group of SHARE queries meets the keys of one head.
#pragma once
#include "vectors.h"

static inline long padded(long tokens) { return (tokens + LANES - 1) / LANES * LANES; }

// Put a token's rotated key and its value into the caches at place `t`.
static inline void keep(const float* key, const number* value, long t, number* keys, number* values) {
    number* column = keys + t / LANES * LANES * HEAD_DIM + t % LANES;
    for (int d = 0; d < HEAD_DIM; d++) column[d * LANES] = rounded(key[d]);
    memcpy(values + t * HEAD_DIM, value, HEAD_DIM * sizeof(number));
}

// Scores of SHARE queries with the keys of tokens 0 … count-1, kept as blocks of [HEAD_DIM, LANES]; -inf behind them.
static inline void score(const float (*query)[HEAD_DIM], const number* keys, long count, float* scores, long stride) {
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

// out += shares of values [count, HEAD_DIM].
static inline void mix(const float* shares, long stride, const number* values, long count,
                lanes (*out)[HEAD_DIM / LANES]) {
    for (long t = 0; t < count; t++, values += HEAD_DIM)
        for (int i = 0; i < HEAD_DIM / LANES; i++) {
            lanes value = load(values + i * LANES);
            for (int s = 0; s < SHARE; s++) out[s][i] += shares[s * stride + t] * value;
        }
}

// Scores into e^(score - highest), in place; their highest and their sum.
static inline void exponentials(float* scores, long count, float* highest, float* total) {
    lanes top = all(-__builtin_inff()), shares = {};
    lanes* of = (lanes*)scores;
    for (long i = 0; i < count / LANES; i++) top = larger(top, of[i]);
    *highest = largest(top);
    for (long i = 0; i < count / LANES; i++) shares += of[i] = exponential(of[i] - *highest);
    *total = sum(shares);
}
