// The operators of a layer outside attention: linear, RMSNorm, the gate.
#include "vectors.h"

// -- Linear --------------------------------------------------------------------------------------------------------

// out [R, PANEL] = x [R, K] · panel [K, PANEL] + bias (+ add); R is known when compiling, so that all sums stay in
// registers.
template <int R>
static void tile(const float* x, long K, const float* panel, const float* bias, const float* add, float* out, long N) {
    vec left[R], right[R];
    for (int r = 0; r < R; r++) left[r] = *(const vec*)bias, right[r] = *(const vec*)(bias + LANES);
    for (long k = 0; k < K; k++) {
        vec a = *(const vec*)(panel + k * PANEL), b = *(const vec*)(panel + k * PANEL + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float factor = x[r * K + k];
            left[r] += factor * a, right[r] += factor * b;
        }
    }
    for (int r = 0; r < R; r++) {
        if (add) left[r] += *(const vec*)(add + r * N), right[r] += *(const vec*)(add + r * N + LANES);
        *(vec*)(out + r * N) = left[r], *(vec*)(out + r * N + LANES) = right[r];
    }
}

template <int R>
static void tile_of(long r, const float* x, long K, const float* panel, const float* bias, const float* add, float* out,
                    long N) {
    if (r == R) tile<R>(x, K, panel, bias, add, out, N);
    else if constexpr (R > 1) tile_of<R - 1>(r, x, K, panel, bias, add, out, N);
}

extern "C" long panel_columns() { return PANEL; }
extern "C" long block_tokens() { return LANES; }

// out [rows, N] = x [rows, K] · weight + bias (+ add [rows, N]); the weight is stored as N / PANEL panels [K, PANEL].
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

// -- Row by row ----------------------------------------------------------------------------------------------------

// out [rows, C] = RMSNorm of x.
extern "C" void rms_norm(long rows, const scalar* x, const float* weight, float eps, long C, scalar* out) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) rms_norm_row(x + r * C, weight, eps, C, out + r * C);
}

template <bool has_cube>
static void gated_rows(long rows, const scalar* gate_up, long M, float linear, float cubic, scalar* out) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        for (long m = 0; m < M; m += LANES) {
            vec g = load(gate_up + r * 2 * M + m), u = load(gate_up + r * 2 * M + M + m);
            store(out + r * M + m, times_sigmoid(g, gate_power<has_cube>(g, linear, cubic)) * u);
        }
}

// out [rows, M] = act(gate) · up, of gate_up [rows, 2 M]; act(g) = g · σ(linear · g + cubic · g³).
extern "C" void gated(long rows, const scalar* gate_up, long M, float linear, float cubic, scalar* out) {
    (cubic == 0 ? gated_rows<false> : gated_rows<true>)(rows, gate_up, M, linear, cubic, out);
}
