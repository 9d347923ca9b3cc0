// Parts of attention that decoding and the update share: QUERIES queries meet the keys and values of one head.
#pragma once
#include "vectors.h"

static inline long padded(long tokens) { return (tokens + LANES - 1) / LANES * LANES; }

// Store a token's rotated key (of floats or scalars) and its value at position `t` of a cache.
template <class Number>
static inline void store_key_value(const Number* key, const scalar* value, long t, scalar* keys, scalar* values) {
    scalar* column = keys + t / LANES * LANES * HEAD_DIM + t % LANES;
    for (int d = 0; d < HEAD_DIM; d++) column[d * LANES] = to_scalar(key[d]);
    memcpy(values + t * HEAD_DIM, value, HEAD_DIM * sizeof(scalar));
}

// How a layer's tokens attend: to the last `window` tokens, themselves included, or to all if it is 0; with scores
// limited by `soft_cap` unless `cap` is 0.
struct Manner {
    long window;
    float cap;

    // The first position that a token at `position` attends to.
    long first(long position) const { return window && position >= window ? position + 1 - window : 0; }
};

// That of most models, known when compiling: what they do without costs them nothing.
struct Plain {
    static constexpr float cap = 0;
    static constexpr long first(long) { return 0; }
};

// Call `run` with the manner of a `window` and a `cap`.
template <class Run>
static inline void in_manner(long window, float cap, Run run) {
    if (window || cap) run(Manner{window, cap});
    else run(Plain{});
}

// Those of the tokens 0 … count-1 of a cache that come at or after `first`, from the start of a block on: `hidden`
// tokens of that come before it.
struct Seen {
    long start = 0, hidden = 0, count;

    Seen(long count, long first) : count(count) {
        if (first <= 0) return;
        start = first < count ? first / LANES * LANES : count;
        hidden = first < count ? first - start : 0;
        this->count = count - start;
    }
    template <class Number>
    Number* in(Number* cache) const {
        return cache + start * HEAD_DIM;
    }
};

// scores [QUERIES, stride] = the queries' products with the keys of a cache, stored in blocks [HEAD_DIM, LANES], that
// are seen; those of the others in their blocks are -inf.
static inline void attention_scores(const float (*query)[HEAD_DIM], const scalar* cache, const Seen& seen, float cap,
                                    float* scores, long stride) {
    const scalar* keys = seen.in(cache);
    for (long t = 0; t < seen.count; t += LANES, keys += HEAD_DIM * LANES) {
        vec total[QUERIES] = {};
        for (int d = 0; d < HEAD_DIM; d++) {
            vec key = load(keys + d * LANES);
            for (int s = 0; s < QUERIES; s++) total[s] += query[s][d] * key;
        }
        for (int s = 0; s < QUERIES; s++) *(vec*)(scores + s * stride + t) = cap ? soft_cap(total[s], cap) : total[s];
    }
    for (int s = 0; s < QUERIES; s++)
        for (long t = seen.count; t % LANES; t++) scores[s * stride + t] = -__builtin_inff();
    for (long t = 0; t < seen.hidden; t++)
        for (int s = 0; s < QUERIES; s++) scores[s * stride + t] = -__builtin_inff();
}

// out [QUERIES, HEAD_DIM] += weights [QUERIES, stride] · vectors [count, HEAD_DIM].
static inline void add_weighted_sum(const float* weights, long stride, const scalar* vectors, long count,
                                    vec (*out)[HEAD_DIM / LANES]) {
    for (long t = 0; t < count; t++, vectors += HEAD_DIM)
        for (int i = 0; i < HEAD_DIM / LANES; i++) {
            vec value = load(vectors + i * LANES);
            for (int s = 0; s < QUERIES; s++) out[s][i] += weights[s * stride + t] * value;
        }
}

// Replace scores by e^(score - maximum); returns their maximum and the sum of the exponentials.
static inline void exponentiate(float* scores, long count, float* highest, float* total) {
    vec top = broadcast(-__builtin_inff()), sums = {};
    vec* blocks = (vec*)scores;
    for (long i = 0; i < count / LANES; i++) top = maximum(top, blocks[i]);
    *highest = horizontal_max(top);
    for (long i = 0; i < count / LANES; i++) sums += blocks[i] = exp_nonpositive(blocks[i] - *highest);
    *total = horizontal_sum(sums);
}
