// Products in bfloat16 with sums in float32, in an order that does not depend on the batch: rollouts and the update
// compute the same numbers. On matrix tiles where the processor has them (AMX), else as dot products of pairs
// (AVX512-BF16).
//
// A weight is stored in panels of PANEL columns, as both want it: [N / PANEL, K / DEPTH, 2, DEPTH / 2, 16, 2], columns in
// two halves of 16 and inputs in pairs.
#include "vectors.h"

#if defined(BFLOAT16) && defined(__AVX512BF16__)
#include <immintrin.h>

constexpr long SIDE = 16, DEPTH = 32;     // of a tile: rows or columns; inputs that one instruction takes
constexpr long TILE_SIZE = SIDE * DEPTH;  // scalars
constexpr long AHEAD = 8 * TILE_SIZE;     // of what is read, what is fetched into the cache
static_assert(PANEL == 2 * SIDE, "a panel is two tiles wide");

// -- Dot products --------------------------------------------------------------------------------------------------

// sums [R, PANEL] = x [R, K] · panel; R is known when compiling, so that all sums stay in registers. `fetch`: the panel
// is not in the cache.
template <int R>
static void sum_pairs(const scalar* x, long K, const scalar* panel, bool fetch, float* sums) {
    __m512 left[R] = {}, right[R] = {};
    for (long k = 0; k < K; k += DEPTH, panel += TILE_SIZE)
        for (long end = k + DEPTH, pair = k; pair < end; pair += 2, panel += 2 * SIDE) {
            if (fetch)
                for (long half = 0; half < 2; half++) _mm_prefetch(panel + AHEAD + half * TILE_SIZE, _MM_HINT_T0);
            __m512bh a = (__m512bh)_mm512_loadu_si512(panel), b = (__m512bh)_mm512_loadu_si512(panel + TILE_SIZE);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                int32_t both;
                memcpy(&both, x + r * K + pair, sizeof both);
                __m512bh factor = (__m512bh)_mm512_set1_epi32(both);
                left[r] = _mm512_dpbf16_ps(left[r], factor, a), right[r] = _mm512_dpbf16_ps(right[r], factor, b);
            }
        }
    for (int r = 0; r < R; r++) store(sums + r * PANEL, (vec)left[r]), store(sums + r * PANEL + SIDE, (vec)right[r]);
}

template <int R>
static void sum_pairs_of(long rows, const scalar* x, long K, const scalar* panel, bool fetch, float* sums) {
    if (rows == R) sum_pairs<R>(x, K, panel, fetch, sums);
    else if constexpr (R > 1) sum_pairs_of<R - 1>(rows, x, K, panel, fetch, sums);
}

// -- Matrix tiles --------------------------------------------------------------------------------------------------

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

constexpr bool compiled_for_tiles = true;
// True if the operating system lets this process use the tiles.
static bool ask_for_tiles() {
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

static void release_tiles() { _tile_release(); }

// sums [rows, PANEL] = x [rows, K] · panel; two rows of tiles if rows > SIDE.
template <bool two>
static void sum_tiles(const scalar* x, long K, const scalar* panel, bool fetch, float* sums) {
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
#else
constexpr bool compiled_for_tiles = false;
static bool ask_for_tiles() { return false; }
static void shape_tiles(long) {}
static void release_tiles() {}
template <bool two>
static void sum_tiles(const scalar*, long, const scalar*, bool, float*) {}
#endif

// -- Linear --------------------------------------------------------------------------------------------------------

static const bool tiles = ask_for_tiles();

extern "C" long has_bfloat16() { return 1; }

// out [rows, N] = x [rows, K] · weight + bias (+ add [rows, N]); N is a multiple of PANEL, K of DEPTH.
extern "C" void linear_bfloat16(long rows, const scalar* x, long K, const scalar* panels, const scalar* bias,
                                const scalar* add, scalar* out, long N) {
    constexpr long most = compiled_for_tiles ? 2 * SIDE : TILE;  // rows whose sums stay in registers
    long block = tiles ? 2 * SIDE : TILE;
    long chunk = (tiles ? 640L << 10 : 256L << 10) / K / block * block;  // rows whose inputs stay in a core's cache
    if (chunk < 2 * block) chunk = 2 * block;
    long chunks = (rows + chunk - 1) / chunk;
#pragma omp parallel
    {
        alignas(64) float sums[most * PANEL];
        long shaped = 0;
#pragma omp for collapse(2) schedule(static)
        for (long c = 0; c < chunks; c++)
            for (long n = 0; n < N; n += PANEL) {
                long first = rows * c / chunks, last = rows * (c + 1) / chunks;
                vec left = load(bias + n), right = load(bias + n + SIDE);
                long blocks = (last - first + block - 1) / block;
                for (long i = 0; i < blocks; i++) {
                    long r = first + (last - first) * i / blocks;
                    long count = first + (last - first) * (i + 1) / blocks - r;
                    const scalar *inputs = x + r * K, *panel = panels + n * K;
                    if (tiles && count != shaped) shape_tiles(shaped = count);
                    if (!tiles) sum_pairs_of<TILE>(count, inputs, K, panel, i == 0, sums);
                    else if (count > SIDE) sum_tiles<true>(inputs, K, panel, i == 0, sums);
                    else sum_tiles<false>(inputs, K, panel, i == 0, sums);
                    for (long j = 0; j < count; j++) {
                        long at = (r + j) * N + n;
                        vec a = load(sums + j * PANEL) + left, b = load(sums + j * PANEL + SIDE) + right;
                        if (add) a += load(add + at), b += load(add + at + SIDE);
                        store(out + at, a), store(out + at + SIDE, b);
                    }
                }
            }
        if (tiles) release_tiles();
    }
}

#ifdef __linux__
#include <sys/mman.h>

// Ask for large pages; may be refused.
static void advise_large_pages(scalar* from, long size) {
    constexpr uintptr_t page = 2 << 20;
    uintptr_t first = ((uintptr_t)from + page - 1) / page * page, last = (uintptr_t)(from + size) / page * page;
    if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
}
#else
static void advise_large_pages(scalar*, long) {}
#endif

// panels = the weight [N, K] as `linear_bfloat16` wants it.
extern "C" void pack_bfloat16(long N, const scalar* weight, long K, scalar* panels) {
    advise_large_pages(panels, N * K);
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
extern "C" long has_bfloat16() { return 0; }
#endif
