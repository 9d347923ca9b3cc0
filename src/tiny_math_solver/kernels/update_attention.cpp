// The update's attention over packed tokens, forward and backward: without padding, of each group its prompt and then
// its completions, each without its last token. Segments are given by their first token and their length:
//
//     prompt of group g    group_start[g], group_length[g]; its completions are group_completions[g] … [g + 1] - 1
//     completion c         completion_start[c], completion_length[c]; its positions continue those of the prompt
//
// A gradient named like a tensor is the derivative of the loss by it; `out_gradient` is that of an operator's result.
#include <vector>

#include "attention.h"

namespace {

constexpr long STRIDE = (HEADS + 2 * KV_HEADS) * HEAD_DIM;  // from token to token of qkv

// Keys and values of one head and one segment: in blocks for scores, and token by token for sums.
struct HeadCache {
    long count;
    std::vector<scalar> key_blocks, value_blocks, keys, values;
    std::vector<float> key_gradient, value_gradient;

    HeadCache(const scalar* qkv, long start, long count, long head, bool backward) : count(count) {
        long size = padded(count) * HEAD_DIM;
        key_blocks.resize(size), values.resize(size);
        if (backward) {
            value_blocks.resize(size), keys.resize(size);
            key_gradient.resize(size), value_gradient.resize(size);
        }
        for (long t = 0; t < count; t++) {
            const scalar* key = qkv + (start + t) * STRIDE + (HEADS + head) * HEAD_DIM;
            const scalar* value = key + KV_HEADS * HEAD_DIM;
            store_key_value(key, value, t, key_blocks.data(), values.data());
            if (backward) store_key_value(value, key, t, value_blocks.data(), keys.data());
        }
    }

    void write_gradient(scalar* gradient, long start, long head) const {
        for (long t = 0; t < count; t++) {
            scalar* to = gradient + (start + t) * STRIDE + (HEADS + head) * HEAD_DIM;
            for (int i = 0; i < HEAD_DIM; i += LANES) {
                store(to + i, load(&key_gradient[t * HEAD_DIM + i]));
                store(to + KV_HEADS * HEAD_DIM + i, load(&value_gradient[t * HEAD_DIM + i]));
            }
        }
    }
};

// out [count, HEAD_DIM] += weightsᵀ [QUERIES, stride] · vectors [QUERIES, HEAD_DIM].
void add_outer_product(const float* weights, long stride, const float (*vectors)[HEAD_DIM], long count, float* out) {
    for (long t = 0; t < count; t++, out += HEAD_DIM)
        for (int i = 0; i < HEAD_DIM; i += LANES) {
            vec total = load(out + i);
            for (int s = 0; s < QUERIES; s++) total += weights[s * stride + t] * load(vectors[s] + i);
            store(out + i, total);
        }
}

struct Layout {
    const int64_t *group_start, *group_length, *group_completions, *completion_start, *completion_length;
};

// The caches that a token attends to, its prompt's and that of its own segment, and which of their tokens it sees.
struct View {
    HeadCache &prompt, &own;
    Seen of_prompt, of_own;
    long split, stride;  // scores of the prompt's tokens; of all

    // Of the token number `last` of its own segment.
    template <class Way>
    View(HeadCache& prompt, HeadCache& own, long last, const Way& manner)
        : prompt(prompt), own(own), of_prompt(prompt.count, manner.first(prompt.count + last)),
          of_own(last + 1, manner.first(prompt.count + last) - prompt.count), split(padded(of_prompt.count)),
          stride(split + padded(of_own.count)) {}
};

// Call `visit(view, token)` for every token of a group: it attends to the prompt and to its own segment up to itself (a
// prompt's tokens to those alone). After each segment call `close(segment, start)`.
template <class Way, class Visit, class Close>
void each_token(const Layout& of, long group, const scalar* qkv, long head, bool backward, const Way& manner,
                Visit visit, Close close) {
    HeadCache prompt(qkv, of.group_start[group], of.group_length[group], head, backward);
    HeadCache nothing(qkv, 0, 0, head, backward);
    for (long c = of.group_completions[group]; c < of.group_completions[group + 1]; c++) {
        HeadCache own(qkv, of.completion_start[c], of.completion_length[c], head, backward);
        for (long t = 0; t < own.count; t++) visit(View(prompt, own, t, manner), of.completion_start[c] + t);
        close(own, of.completion_start[c]);
    }
    for (long t = 0; t < prompt.count; t++) visit(View(nothing, prompt, t, manner), of.group_start[group] + t);
    close(prompt, of.group_start[group]);
}

// By force, so that what a plain manner does without is left out.
#define INLINED __attribute__((always_inline)) inline

// The vectors [HEAD_DIM] of the QUERIES heads that share a key-value head.
struct HeadVectors {
    float of[QUERIES][HEAD_DIM];

    explicit HeadVectors(const scalar* from) {
        for (int s = 0; s < QUERIES; s++)
            for (int i = 0; i < HEAD_DIM; i += LANES) store(of[s] + i, load(from + s * HEAD_DIM + i));
    }
};

// scores [QUERIES, stride] of a token with all that it sees, by the blocks of keys, or of values, of its caches.
INLINED void scores_of(const float (*query)[HEAD_DIM], const View& view, std::vector<scalar> HeadCache::*blocks,
                       float cap, std::vector<float>& scores) {
    scores.resize(QUERIES * view.stride);
    attention_scores(query, (view.prompt.*blocks).data(), view.of_prompt, cap, scores.data(), view.stride);
    attention_scores(query, (view.own.*blocks).data(), view.of_own, cap, scores.data() + view.split, view.stride);
}

// out [QUERIES, HEAD_DIM] += weights [QUERIES, stride] · the keys, or values, that are seen.
INLINED void add_seen(const std::vector<float>& weights, const View& view, std::vector<scalar> HeadCache::*vectors,
                      vec (*out)[HEAD_DIM / LANES]) {
    const Seen &prompt = view.of_prompt, &own = view.of_own;
    add_weighted_sum(weights.data(), view.stride, prompt.in((view.prompt.*vectors).data()), prompt.count, out);
    add_weighted_sum(weights.data() + view.split, view.stride, own.in((view.own.*vectors).data()), own.count, out);
}

// The gradients of the keys, or values, that are seen += weightsᵀ [QUERIES, stride] · vectors [QUERIES, HEAD_DIM].
INLINED void add_to_seen(const std::vector<float>& weights, const float (*vectors)[HEAD_DIM], const View& view,
                         std::vector<float> HeadCache::*gradient) {
    const Seen &prompt = view.of_prompt, &own = view.of_own;
    float *of_prompt = prompt.in((view.prompt.*gradient).data()), *of_own = own.in((view.own.*gradient).data());
    add_outer_product(weights.data(), view.stride, vectors, prompt.count, of_prompt);
    add_outer_product(weights.data() + view.split, view.stride, vectors, own.count, of_own);
}

}  // namespace

template <class Way>
static void attention_of_groups(long groups, const Layout& layout, const scalar* qkv, const Way& manner, scalar* out,
                                float* log_sum) {
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (long g = 0; g < groups; g++)
        for (long h = 0; h < KV_HEADS; h++) {
            std::vector<float> scores;
            auto visit = [&](const View& view, long token) {
                HeadVectors query(qkv + token * STRIDE + h * QUERIES * HEAD_DIM);
                scores_of(query.of, view, &HeadCache::key_blocks, manner.cap, scores);
                float highest, total[QUERIES];
                for (int s = 0; s < QUERIES; s++) {
                    exponentiate(scores.data() + s * view.stride, view.stride, &highest, total + s);
                    log_sum[token * HEADS + h * QUERIES + s] = highest + __builtin_logf(total[s]);
                }
                vec output[QUERIES][HEAD_DIM / LANES] = {};
                add_seen(scores, view, &HeadCache::values, output);
                for (int s = 0; s < QUERIES; s++)
                    for (int i = 0; i < HEAD_DIM / LANES; i++)
                        store(out + (token * HEADS + h * QUERIES + s) * HEAD_DIM + i * LANES, output[s][i] / total[s]);
            };
            each_token(layout, g, qkv, h, false, manner, visit, [](const HeadCache&, long) {});
        }
}

// out [tokens, HEADS · HEAD_DIM] = causal attention over the rotated qkv, with `window` and `cap` as in Manner; log_sum
// [tokens, HEADS] = log Σ e^score.
extern "C" void attention(long groups, const int64_t* group_start, const int64_t* group_length,
                          const int64_t* group_completions, const int64_t* completion_start,
                          const int64_t* completion_length, const scalar* qkv, long window, float cap, scalar* out,
                          float* log_sum) {
    Layout layout{group_start, group_length, group_completions, completion_start, completion_length};
    in_manner(window, cap, [&](auto manner) { attention_of_groups(groups, layout, qkv, manner, out, log_sum); });
}

template <class Way>
static void backward_of_groups(long groups, const Layout& layout, const scalar* qkv, const Way& manner,
                               const scalar* out, const float* log_sum, const scalar* out_gradient, scalar* gradient) {
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (long g = 0; g < groups; g++)
        for (long h = 0; h < KV_HEADS; h++) {
            std::vector<float> probabilities, score_gradient;
            auto visit = [&](const View& view, long token) {
                HeadVectors query(qkv + token * STRIDE + h * QUERIES * HEAD_DIM);
                long place = token * HEADS + h * QUERIES, stride = view.stride;
                HeadVectors from(out_gradient + place * HEAD_DIM);
                scores_of(query.of, view, &HeadCache::key_blocks, manner.cap, probabilities);
                scores_of(from.of, view, &HeadCache::value_blocks, 0, score_gradient);
                for (int s = 0; s < QUERIES; s++) {
                    vec along = {};
                    for (int i = 0; i < HEAD_DIM; i += LANES)
                        along += load(from.of[s] + i) * load(out + (place + s) * HEAD_DIM + i);
                    float mean = horizontal_sum(along);
                    for (long t = s * stride; t < (s + 1) * stride; t += LANES) {
                        vec score = load(&probabilities[t]), probability = exp_nonpositive(score - log_sum[place + s]);
                        store(&probabilities[t], probability);
                        vec by_score = probability * (load(&score_gradient[t]) - mean);
                        if (manner.cap) by_score *= 1 - score * score * (1 / (manner.cap * manner.cap));
                        store(&score_gradient[t], probability > 0 ? by_score : broadcast(0));
                    }
                }
                vec query_gradient[QUERIES][HEAD_DIM / LANES] = {};
                add_seen(score_gradient, view, &HeadCache::keys, query_gradient);
                for (int s = 0; s < QUERIES; s++)
                    for (int i = 0; i < HEAD_DIM / LANES; i++)
                        store(gradient + token * STRIDE + (h * QUERIES + s) * HEAD_DIM + i * LANES, query_gradient[s][i]);
                add_to_seen(score_gradient, query.of, view, &HeadCache::key_gradient);
                add_to_seen(probabilities, from.of, view, &HeadCache::value_gradient);
            };
            each_token(layout, g, qkv, h, true, manner, visit,
                       [&](const HeadCache& segment, long start) { segment.write_gradient(gradient, start, h); });
        }
}

// gradient [tokens, HEADS + 2 KV_HEADS, HEAD_DIM] = that of the rotated qkv, from out_gradient [tokens, HEADS · HEAD_DIM].
extern "C" void attention_backward(long groups, const int64_t* group_start, const int64_t* group_length,
                                   const int64_t* group_completions, const int64_t* completion_start,
                                   const int64_t* completion_length, const scalar* qkv, long window, float cap,
                                   const scalar* out, const float* log_sum, const scalar* out_gradient,
                                   scalar* gradient) {
    Layout layout{group_start, group_length, group_completions, completion_start, completion_length};
    in_manner(window, cap, [&](auto manner) {
        backward_of_groups(groups, layout, qkv, manner, out, log_sum, out_gradient, gradient);
    });
}
