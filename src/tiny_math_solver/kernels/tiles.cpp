// Products in bfloat16 on the matrix tiles of Intel's processors (AMX): sums of 16 × 16 results in one register, in
// float32, always in the same order. A weight is stored in panels of PANEL columns, as the tiles want it:
// [N / PANEL, K / DEPTH, 2, DEPTH / 2, 16, 2], columns in two halves of 16 and inputs in pairs.
#include "vectors.h"

#if defined(BFLOAT16) && defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

constexpr long SIDE = 16, DEPTH = 32;     // of a tile: rows or columns; inputs that one instruction takes
constexpr long BLOCK = 2 * SIDE;          // rows whose sums stay in registers
constexpr long TILE_SIZE = SIDE * DEPTH;  // scalars
constexpr long AHEAD = 8 * TILE_SIZE;     // of what is read, what is fetched into the cache
constexpr long INPUTS_SIZE = 640L << 10;  // scalars of the inputs that stay in a core's cache: 1.25 MB
static_assert(PANEL == 2 * SIDE, "a panel is two tiles wide");

// 1 if the operating system lets this process use the tiles.
extern "C" long has_tiles() {
    constexpr long request_permission = 0x1023, tile_data = 18;  // arch_prctl(2): ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// Shape the tiles for a block of `rows` rows: 0 and 1 hold the sums of the first 16 rows, 2 and 3 those of the others,
// 4 and 5 their inputs, 6 and 7 the weight.
static void shape_tiles(long rows) {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } shape;
    uint8_t first = rows < SIDE ? rows : SIDE, second = rows - first;
    uint8_t of_tile[8] = {first, first, second, second, first, second, SIDE, SIDE};
    for (int t = 0; t < 8; t++)
        if (of_tile[t]) shape.rows[t] = of_tile[t], shape.row_bytes[t] = SIDE * sizeof(float);
    _tile_loadconfig(&shape);
}

// sums [rows, PANEL] = x [rows, K] · panel; two rows of tiles if rows > SIDE. `fetch`: the panel is not in the cache.
template <bool two>
static void multiply(const scalar* x, long K, const scalar* panel, bool fetch, float* sums) {
    constexpr long line = 64 / sizeof(scalar), sum_bytes = PANEL * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < K; k += DEPTH, panel += 2 * TILE_SIZE) {
        if (fetch && k % (2 * DEPTH) == 0)  // a quarter of the lines: the processor guesses the others from them
            for (long i = 0; i < TILE_SIZE; i += line) _mm_prefetch(panel + AHEAD + i, _MM_HINT_T1);
        _tile_loadd(6, panel, 64);
        _tile_loadd(4, x + k, K * sizeof(scalar));
        _tile_loadd(7, panel + TILE_SIZE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, x + SIDE * K + k, K * sizeof(scalar));
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, sum_bytes);
    _tile_stored(1, sums + SIDE, sum_bytes);
    if (two) {
        _tile_stored(2, sums + SIDE * PANEL, sum_bytes);
        _tile_stored(3, sums + SIDE * PANEL + SIDE, sum_bytes);
    }
}

// out [rows, N] = x [rows, K] · weight + bias (+ add [rows, N]); N is a multiple of PANEL, K of DEPTH.
extern "C" void tiled_linear(long rows, const scalar* x, long K, const scalar* panels, const scalar* bias,
                             const scalar* add, scalar* out, long N) {
    long chunk = INPUTS_SIZE / K / BLOCK * BLOCK;  // rows whose inputs all panels meet
    if (chunk < 2 * BLOCK) chunk = 2 * BLOCK;
    long chunks = (rows + chunk - 1) / chunk;
#pragma omp parallel
    {
        alignas(64) float sums[BLOCK * PANEL];
        long shaped = 0;
#pragma omp for collapse(2) schedule(static)
        for (long c = 0; c < chunks; c++)
            for (long n = 0; n < N; n += PANEL) {
                long first = rows * c / chunks, last = rows * (c + 1) / chunks;
                vec left = load(bias + n), right = load(bias + n + SIDE);
                for (long r = first; r < last; r += BLOCK) {
                    long count = last - r < BLOCK ? last - r : BLOCK;
                    if (count != shaped) shape_tiles(shaped = count);
                    if (count > SIDE) multiply<true>(x + r * K, K, panels + n * K, r == first, sums);
                    else multiply<false>(x + r * K, K, panels + n * K, r == first, sums);
                    for (long i = 0; i < count; i++) {
                        long at = (r + i) * N + n;
                        vec a = load(sums + i * PANEL) + left, b = load(sums + i * PANEL + SIDE) + right;
                        if (add) a += load(add + at), b += load(add + at + SIDE);
                        store(out + at, a), store(out + at + SIDE, b);
                    }
                }
            }
        _tile_release();
    }
}

// panels = the weight [N, K] in the order of the tiles, in memory of large pages where the system has them.
extern "C" void pack_tiles(long N, const scalar* weight, long K, scalar* panels) {
    constexpr uintptr_t page = 2 << 20;
    uintptr_t first = ((uintptr_t)panels + page - 1) / page * page, last = (uintptr_t)(panels + N * K) / page * page;
    if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);  // advice: may be refused
#pragma omp parallel for collapse(2) schedule(static)
    for (long n = 0; n < N; n += PANEL)
        for (long k = 0; k < K; k += DEPTH) {
            uint32_t* to = (uint32_t*)(panels + n * K + k * PANEL);  // of pairs
            for (long half = 0; half < 2; half++, to += TILE_SIZE / 2)
                for (long column = 0; column < SIDE; column++) {
                    uint32_t pairs[DEPTH / 2];
                    memcpy(pairs, weight + (n + half * SIDE + column) * K + k, sizeof pairs);
                    for (long i = 0; i < DEPTH / 2; i++) to[i * SIDE + column] = pairs[i];
                }
        }
}
#else
extern "C" long has_tiles() { return 0; }
#endif
