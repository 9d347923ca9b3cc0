// A decode step: one token for each running completion, independent of the others.
//
// Slots 0 … rows-1 of the batch are running. A slot's completion has the cache place `completion_place[slot]` to
// itself, and its prompt the place `prompt_place[slot]`, which the samples of a group share. `generated[slot]` counts
// the tokens drawn so far.
#include <vector>

#include "attention.h"

// `size` floats that the calling thread has to itself until it calls again. On the heap: what 100,000 tokens need is
// more than the stack of a thread holds.
static float* scratch(long size) {
    static thread_local std::vector<float> floats;
    if ((long)floats.size() < size) floats.resize(size);
    return floats.data();
}

// x [rows, C] = the embedding of each slot's last token.
extern "C" void embed(long rows, const int64_t* tokens, long columns, const int64_t* generated,
                      const scalar* embedding, long C, scalar* x) {
    for (long r = 0; r < rows; r++)
        memcpy(x + r * C, embedding + tokens[r * columns + generated[r] - 1] * C, C * sizeof(scalar));
}

// -- Attention -----------------------------------------------------------------------------------------------------

// Rotate pairs (2i, 2i+1) of a head, after its norm if it has one; `rope` holds cosine and sine of each pair. The result
// is rounded as in the update.
static void rotate(const scalar* head, const float* norm, float eps, const float* rope, float scale, float* out) {
    scalar normed[HEAD_DIM];
    if (norm) rms_norm_row(head, norm, eps, HEAD_DIM, normed), head = normed;
    for (int d = 0; d < HEAD_DIM; d += 2) {
        float a = to_float(head[d]) * scale, b = to_float(head[d + 1]) * scale;
        out[d] = to_float(to_scalar(a * rope[d] - b * rope[d + 1]));
        out[d + 1] = to_float(to_scalar(a * rope[d + 1] + b * rope[d]));
    }
}

// Store the keys and values of prompts, given by their first tokens in the rotated qkv [tokens, HEADS + 2 KV_HEADS,
// HEAD_DIM] and their lengths, at `places` of the cache.
extern "C" void cache_prompts(long prompts, const scalar* qkv, const int64_t* starts, const int64_t* lengths,
                              const int64_t* places, scalar* keys, scalar* values, long capacity) {
    long size = padded(capacity) * HEAD_DIM;
#pragma omp parallel for collapse(2) schedule(static)
    for (long p = 0; p < prompts; p++)
        for (long h = 0; h < KV_HEADS; h++)
            for (long t = 0; t < lengths[p]; t++) {
                const scalar* key = qkv + ((starts[p] + t) * (HEADS + 2 * KV_HEADS) + HEADS + h) * HEAD_DIM;
                long to = (places[p] * KV_HEADS + h) * size;
                float exact[HEAD_DIM];
                for (int d = 0; d < HEAD_DIM; d++) exact[d] = to_float(key[d]);
                store_key_value(exact, key + KV_HEADS * HEAD_DIM, t, keys + to, values + to);
            }
}

// out [rows, HEADS · HEAD_DIM] = attention of each slot's last token over its prompt and completion; the token's own
// key and value are added to the cache. qkv [rows, HEADS + 2 KV_HEADS, HEAD_DIM], rope_table [positions, HEAD_DIM];
// `window` and `cap` as in Manner.
extern "C" void decode_attention(long rows, const scalar* qkv, const float* rope_table, const float* query_norm,
                                 const float* key_norm, float eps, float scale, long window, float cap,
                                 const int64_t* prompt_place, const int64_t* prompt_length,
                                 const int64_t* completion_place, const int64_t* generated, scalar* prompt_keys,
                                 scalar* prompt_values, long prompt_capacity, scalar* completion_keys,
                                 scalar* completion_values, long completion_capacity, scalar* out) {
    long prompt_size = padded(prompt_capacity) * HEAD_DIM, completion_size = padded(completion_capacity) * HEAD_DIM;
    in_manner(window, cap, [=](auto manner) {
#pragma omp parallel for collapse(2) schedule(static)
        for (long r = 0; r < rows; r++)
            for (long h = 0; h < KV_HEADS; h++) {
                long length = prompt_length[r], count = generated[r];
                long first = manner.first(length + count - 1);
                Seen of_prompt(length, first), own(count, first - length);
                long split = padded(of_prompt.count), stride = split + padded(own.count);
                const scalar* row = qkv + r * (HEADS + 2 * KV_HEADS) * HEAD_DIM;
                const float* rope = rope_table + (length + count - 1) * HEAD_DIM;
                scalar *keys = completion_keys + (completion_place[r] * KV_HEADS + h) * completion_size,
                       *values = completion_values + (completion_place[r] * KV_HEADS + h) * completion_size;
                long prompt = (prompt_place[r] * KV_HEADS + h) * prompt_size;
                float query[QUERIES][HEAD_DIM], key[HEAD_DIM], *__restrict scores = scratch(QUERIES * stride);
                for (int s = 0; s < QUERIES; s++)
                    rotate(row + (h * QUERIES + s) * HEAD_DIM, query_norm, eps, rope, scale, query[s]);
                rotate(row + (HEADS + h) * HEAD_DIM, key_norm, eps, rope, 1, key);
                store_key_value(key, row + (HEADS + KV_HEADS + h) * HEAD_DIM, count - 1, keys, values);

                attention_scores(query, prompt_keys + prompt, of_prompt, manner.cap, scores, stride);
                attention_scores(query, keys, own, manner.cap, scores + split, stride);
                vec output[QUERIES][HEAD_DIM / LANES] = {};
                float highest, total[QUERIES];
                for (int s = 0; s < QUERIES; s++) exponentiate(scores + s * stride, stride, &highest, total + s);
                add_weighted_sum(scores, stride, of_prompt.in(prompt_values + prompt), of_prompt.count, output);
                add_weighted_sum(scores + split, stride, own.in(values), own.count, output);
                for (int s = 0; s < QUERIES; s++)
                    for (int i = 0; i < HEAD_DIM / LANES; i++)
                        store(out + ((r * HEADS) + h * QUERIES + s) * HEAD_DIM + i * LANES, output[s][i] / total[s]);
            }
    });
}

// -- The draw ------------------------------------------------------------------------------------------------------

// Draw each slot's next token from row `logits_row[r]`, or r, of the logits: where the running sum of probabilities
// passes its uniform number, or the likeliest token without one. `sharpness` is 1 / temperature. Slots that are done
// stay as they are.
extern "C" void draw(long rows, const scalar* logits, const int64_t* logits_row, long stride, long V, float sharpness,
                     const float* uniform, const int64_t* eos, long eos_count, long limit, long columns,
                     int64_t* tokens, float* logprobs, int64_t* generated, bool* done) {
    long whole = V / LANES * LANES, blocks = (V + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        if (done[r]) continue;
        const scalar* row = logits + (logits_row ? logits_row[r] : r) * stride;
        vec highest = broadcast(-__builtin_inff());
        for (long v = 0; v < whole; v += LANES) highest = maximum(highest, load(row + v));
        float top = horizontal_max(highest), total = 0;
        for (long v = whole; v < V; v++) top = to_float(row[v]) > top ? to_float(row[v]) : top;
        float* __restrict ends = scratch(blocks);  // the running sum up to the end of each block
        vec weights;                               // unnormalised probabilities of one block
        auto weigh = [&](long block) {
            scalar last[LANES];
            const scalar* from = row + block * LANES;
            if (block * LANES == whole) {
                for (int i = 0; i < LANES; i++) last[i] = whole + i < V ? from[i] : to_scalar(-__builtin_inff());
                from = last;
            }
            weights = exp_nonpositive((load(from) - top) * sharpness);
            if (block * LANES == whole)  // the padding must have no weight at all
                for (long i = V - whole; i < LANES; i++) weights[i] = 0;
        };
        for (long block = 0; block < blocks; block++) {
            weigh(block);
            ends[block] = total += horizontal_sum(weights);
        }
        long token = 0, column = r * columns + generated[r];
        if (uniform) {
            float target = uniform[column] * total, before = 0;
            long low = 0, high = blocks - 1;
            while (low < high) {
                long middle = (low + high) / 2;
                if (ends[middle] > target) high = middle;
                else low = middle + 1;
            }
            weigh(low);
            if (low) before = ends[low - 1];
            long i = 0, possible = 0;
            for (; i < LANES; i++) {
                if (weights[i] > 0) possible = i;  // rounding may leave the target behind the last of them
                if ((before += weights[i]) > target) break;
            }
            token = low * LANES + (i < LANES ? i : possible);
        } else {
            while (token < V - 1 && to_float(row[token]) != top) token++;
        }
        tokens[column] = token;
        logprobs[column] = (to_float(row[token]) - top) * sharpness - __builtin_logf(total);
        bool ended = ++generated[r] >= limit;
        for (long e = 0; e < eos_count; e++) ended |= token == eos[e];
        done[r] = ended;
    }
}
