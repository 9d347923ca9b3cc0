// The operators of the update outside attention: gradients of weights, and what is computed row by row. A gradient
// named like a tensor is the derivative of the loss by it; `out_gradient` is that of an operator's result.
#include "vectors.h"

// -- Weights -------------------------------------------------------------------------------------------------------

template <int R>
static void add_tile(long T, const float* left, long N, const float* right, long K, float* out) {
    vec a[R] = {}, b[R] = {};
    for (long t = 0; t < T; t++) {
        vec p = *(const vec*)(right + t * K), q = *(const vec*)(right + t * K + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float factor = left[t * N + r];
            a[r] += factor * p, b[r] += factor * q;
        }
    }
    for (int r = 0; r < R; r++) *(vec*)(out + r * K) += a[r], *(vec*)(out + r * K + LANES) += b[r];
}

template <int R>
static void add_tile_of(long r, long T, const float* left, long N, const float* right, long K, float* out) {
    if (r == R) add_tile<R>(T, left, N, right, K, out);
    else if constexpr (R > 1) add_tile_of<R - 1>(r, T, left, N, right, K, out);
}

// out [N, K] += leftᵀ [T, N] · right [T, K]: the gradient of a weight, from that of its result and its input.
extern "C" void add_weight_gradient(long T, const float* left, long N, const float* right, long K, float* out) {
    long blocks = (N + TILE - 1) / TILE;
#pragma omp parallel for collapse(2) schedule(static)
    for (long block = 0; block < blocks; block++)
        for (long k = 0; k < K; k += PANEL) {
            long first = N * block / blocks, last = N * (block + 1) / blocks;
            add_tile_of<TILE>(last - first, T, left + first, N, right + k, K, out + first * K + k);
        }
}

// -- Row by row ----------------------------------------------------------------------------------------------------

// gradient [rows, C] = (or with `add` +=) the gradient of x, from that of its RMSNorm.
extern "C" void rms_norm_backward(long rows, const scalar* x, const float* weight, float eps, long C,
                                  const scalar* out_gradient, bool add, scalar* gradient) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        const scalar *in = x + r * C, *from = out_gradient + r * C;
        vec squares = {}, along = {};
        for (long c = 0; c < C; c += LANES) {
            squares += load(in + c) * load(in + c);
            along += load(in + c) * load(weight + c) * load(from + c);
        }
        float scale = 1 / __builtin_sqrtf(horizontal_sum(squares) / C + eps);
        float pull = scale * scale * scale * horizontal_sum(along) / C;
        for (long c = 0; c < C; c += LANES) {
            vec by_x = scale * load(weight + c) * load(from + c) - pull * load(in + c);
            store(gradient + r * C + c, add ? load(gradient + r * C + c) + by_x : by_x);
        }
    }
}

template <bool has_cube>
static void gated_backward_rows(long rows, const scalar* gate_up, long M, float linear, float cubic,
                                const scalar* out_gradient, scalar* gradient) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long m = 0; m < M; m += LANES) {
            long at = r * 2 * M + m;
            vec g = load(gate_up + at), u = load(gate_up + at + M), from = load(out_gradient + r * M + m);
            vec sigmoid = times_sigmoid(broadcast(1), gate_power<has_cube>(g, linear, cubic));
            vec along = gate_power<has_cube>(g, linear, 3 * cubic);  // g times the derivative of the power
            store(gradient + at, from * u * sigmoid * (1 + along * (1 - sigmoid)));
            store(gradient + at + M, from * g * sigmoid);
        }
}

// gradient [rows, 2 M] = the gradient of gate_up, from that of act(gate) · up [rows, M], whose act is that of `gated`.
extern "C" void gated_backward(long rows, const scalar* gate_up, long M, float linear, float cubic,
                               const scalar* out_gradient, scalar* gradient) {
    auto of_rows = cubic == 0 ? gated_backward_rows<false> : gated_backward_rows<true>;
    of_rows(rows, gate_up, M, linear, cubic, out_gradient, gradient);
}

// Rotate queries and keys of qkv [rows, HEADS + 2 KV_HEADS, HEAD_DIM] by their positions, in place, and scale the
// queries; with `backward` the gradient of the rotated qkv becomes that of qkv.
extern "C" void rotary(long rows, scalar* qkv, const int64_t* positions, const float* rope_table, float scale,
                       bool backward) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (int h = 0; h < HEADS + KV_HEADS; h++) {
            scalar* head = qkv + (r * (HEADS + 2 * KV_HEADS) + h) * HEAD_DIM;
            float factor = h < HEADS ? scale : 1;
            const float* angle = rope_table + positions[r] * HEAD_DIM;
            for (int d = 0; d < HEAD_DIM; d += 2) {
                float a = to_float(head[d]) * factor, b = to_float(head[d + 1]) * factor;
                float c = angle[d], s = backward ? -angle[d + 1] : angle[d + 1];
                head[d] = to_scalar(a * c - b * s), head[d + 1] = to_scalar(a * s + b * c);
            }
        }
}

// logprob [rows] = the log-probability of each row's target; its gradient by the logits [rows, V] replaces the logits.
// `sharpness` is 1 / temperature.
extern "C" void target_logprobs(long rows, scalar* logits, long stride, long V, float sharpness, const int64_t* target,
                                float* logprob) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        scalar* row = logits + r * stride;
        long whole = V / LANES * LANES;
        vec tops = broadcast(to_float(row[0])), sums = {};
        for (long v = 0; v < whole; v += LANES) tops = maximum(tops, load(row + v));
        float top = horizontal_max(tops), total = 0, chosen = to_float(row[target[r]]);
        for (long v = whole; v < V; v++) top = to_float(row[v]) > top ? to_float(row[v]) : top;
        auto weigh = [&](vec x) { return exp_nonpositive((x - top) * sharpness); };
        constexpr bool exact = sizeof(scalar) == sizeof(float);  // else weights are too coarse to be kept in the row
        for (long v = 0; v < whole; v += LANES) {
            vec weight = weigh(load(row + v));
            sums += weight;
            if (exact) store(row + v, weight);
        }
        for (long v = whole; v < V; v++) total += weigh(broadcast(to_float(row[v])))[0];
        total += horizontal_sum(sums);
        logprob[r] = (chosen - top) * sharpness - __builtin_logf(total);
        float factor = -sharpness / total;
        for (long v = 0; v < whole; v += LANES)
            store(row + v, (exact ? load(row + v) : weigh(load(row + v))) * factor);
        for (long v = whole; v < V; v++) row[v] = to_scalar(weigh(broadcast(to_float(row[v])))[0] * factor);
        for (long v = V; v < stride; v++) row[v] = 0;
        row[target[r]] = to_scalar(weigh(broadcast(chosen))[0] * factor + sharpness);
    }
}
