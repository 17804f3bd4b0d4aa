/* What a Fourier layer and the head do at each point of a grid, on an x86-64 CPU in float32, in one pass over the points.
 *
 * gelu(x) = x Phi(x), Phi the normal distribution. Phi(-a), a >= 0, is 2 to the power of a polynomial, as in
 * activation.py, here of degree 6. 2^y is 2^n times a polynomial of degree 5 in y - n, n the nearest whole number.
 * Coefficients minimise the largest error: with the first polynomial Phi(-a) and a Phi(-a) are off by 1.6e-7 (float32's
 * own steps at 1 are 1.2e-7), with the second 2^y by a share of 9e-8.
 *
 * NEAR points at a time, whose activations and wide hidden layer stay in a core's first cache; from there small products
 * are fast. pointwise_core.h has the arithmetic, fmsci.model.pointwise calls the functions below.
 *
 * Threads are those of the OpenMP that torch has loaded: this is linked with none. Each takes blocks of POINTS points,
 * with sums of their own that are added up in their order: a result does not depend on the number of threads.
 */

#define NEAR 48
#define POINTS 2048
#define WIDEST 64      /* as fmsci.model.pointwise knows it */
#define FARTHEST 13.0f /* what is beyond counts as that: 2^y stays among the numbers with an exponent of their own */
#define ARITHMETIC "pointwise_core.h"
#include "cores.h"

/* The checksum of the files that this was made from. */
unsigned fmsci_sources(void) { return SOURCES; }

/* How many numbers a register of this core holds; 0 where it has none that serve. */
int fmsci_lanes(void)
{
    int fused;
    __builtin_cpu_init();
    fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (fused && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return 16;
    return fused ? 8 : 0;
}

/* How many blocks points have: the caller gives room for the sums of so many. */
ptrdiff_t fmsci_blocks(ptrdiff_t points) { return (points + POINTS - 1) / POINTS; }

static void add_up(const float *room, ptrdiff_t blocks, ptrdiff_t count, float *total)
{
    for (ptrdiff_t block = 0; block < blocks; block++)
        for (ptrdiff_t i = 0; i < count; i++)
            total[i] += room[block * count + i];
}

/* v = gelu(z), out = v columns: z, v, out (points, width), columns (width, width). */
void fmsci_activated_product(
    const float *z, const float *columns, float *v, float *out, ptrdiff_t points, ptrdiff_t width, int threads,
    int lanes)
{
    ptrdiff_t blocks = fmsci_blocks(points);
#pragma omp parallel for num_threads(threads) if (blocks > 1)
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t first = block * POINTS, count = smaller(POINTS, points - first), at = first * width;
        BY_CORE(activated_product, z + at, columns, v + at, out + at, count, width);
    }
}

/* grad = (grad + above pointwise) gelu'(z), total += above^T gelu(z): total, and a block of room, (width, width). */
void fmsci_layer_gradient(
    const float *above, const float *z, const float *pointwise, float *grad, float *total, float *room,
    ptrdiff_t points, ptrdiff_t width, int threads, int lanes)
{
    ptrdiff_t blocks = fmsci_blocks(points), sums = width * width;
#pragma omp parallel for num_threads(threads) if (blocks > 1)
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t first = block * POINTS, count = smaller(POINTS, points - first), at = first * width;
        BY_CORE(layer_gradient, above + at, z + at, pointwise, grad + at, room + block * sums, count, width);
    }
    add_up(room, blocks, sums, total);
}

/* u = gelu(v columns + bias) . outer + outer_bias: v (points, width), columns (width, 2 width), u (points). */
void fmsci_head(
    const float *v, const float *columns, const float *bias, const float *outer, float outer_bias, float *u,
    ptrdiff_t points, ptrdiff_t width, int threads, int lanes)
{
    ptrdiff_t blocks = fmsci_blocks(points);
#pragma omp parallel for num_threads(threads) if (blocks > 1)
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t first = block * POINTS, count = smaller(POINTS, points - first);
        BY_CORE(head, v + first * width, columns, bias, outer, outer_bias, u + first, count, width);
    }
}

/* grad of v, where above is u's; inner is columns^T, (2 width, width). total, and a block of room: the gradients of
 * inner, outer and bias behind each other, which are added. */
void fmsci_head_gradient(
    const float *v, const float *above, const float *columns, const float *inner, const float *bias,
    const float *outer, float *grad, float *total, float *room, ptrdiff_t points, ptrdiff_t width, int threads,
    int lanes)
{
    ptrdiff_t blocks = fmsci_blocks(points), sums = 2 * width * width + 4 * width;
#pragma omp parallel for num_threads(threads) if (blocks > 1)
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t first = block * POINTS, count = smaller(POINTS, points - first), at = first * width;
        BY_CORE(
            head_gradient, v + at, above + first, columns, inner, bias, outer, grad + at, room + block * sums, count,
            width);
    }
    add_up(room, blocks, sums, total);
}
