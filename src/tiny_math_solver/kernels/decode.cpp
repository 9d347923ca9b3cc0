// A decode step: one new token a row, every row by itself.
//
// A slot is a place in the batch: slots 0 … rows-1 are running. Its completion has a row of the cache to itself
// (`cache[slot]`), and shares the keys and values of its prompt with the other samples (`group[slot]`).
#include "attention.h"

// x [rows, C] = the embedding of each row's last token.
extern "C" void embed(long rows, const int64_t* tokens, long columns, const int64_t* made, const number* embedding,
                      long C, number* x) {
    for (long r = 0; r < rows; r++)
        memcpy(x + r * C, embedding + tokens[r * columns + made[r] - 1] * C, C * sizeof(number));
}

// -- Attention -----------------------------------------------------------------------------------------------------

// Turn pairs (2i, 2i+1) of a head by the angle of its position; `turn` holds cosine and sine of each pair.
static void rotate(const number* head, const number* weight, float eps, const float* turn, float scale, float* out) {
    number normed[HEAD_DIM];
    if (weight) normalise(head, weight, eps, HEAD_DIM, normed), head = normed;
    for (int d = 0; d < HEAD_DIM; d += 2) {
        float a = one(head[d]) * scale, b = one(head[d + 1]) * scale;
        out[d] = a * turn[d] - b * turn[d + 1], out[d + 1] = a * turn[d + 1] + b * turn[d];
    }
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
            float highest, total[SHARE];
            for (int s = 0; s < SHARE; s++) exponentials(scores + s * stride, stride, &highest, total + s);
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
