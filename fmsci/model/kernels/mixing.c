/* One complex matrix for each kept wavenumber, on an x86-64 CPU in float32, and its gradients: fmsci.model.mixing.
 *
 * A library's products of few rows read matrices at a third of the memory's rate, and each of the four products of a
 * complex one reads or writes anew. Here each matrix is read once forward and once backward, and its gradient written
 * once. Wavenumbers are shared among the threads of the OpenMP that torch has loaded; none needs another's result.
 */

#define ARITHMETIC "mixing_core.h"
#include "cores.h"

/* out (number, 2 samples, right) = rows (number, 2 samples, left) times weight (2, number, left, right). */
void fmsci_mix(
    const float *rows, const float *weight, float *out, ptrdiff_t number, ptrdiff_t samples, ptrdiff_t left,
    ptrdiff_t right, int threads, int lanes)
{
    ptrdiff_t matrix = left * right;
    const float *imag = weight + number * matrix;
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t i = 0; i < number; i++)
        BY_CORE(
            mix, rows + 2 * i * samples * left, weight + i * matrix, imag + i * matrix, out + 2 * i * samples * right,
            samples, i + 1 < number ? matrix : 0, left, right);
}

/* back and grad: the gradients of rows and weight, from that of out, above. grad is written past the caches where
 * ``far``, and then begins at a line of them. */
void fmsci_mix_gradient(
    const float *rows, const float *above, const float *weight, float *back, float *grad, ptrdiff_t number,
    ptrdiff_t samples, ptrdiff_t left, ptrdiff_t right, int far, int threads, int lanes)
{
    ptrdiff_t matrix = left * right, plane = number * matrix;
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t i = 0; i < number; i++) {
        ptrdiff_t row = 2 * i * samples, at = i * matrix;
        BY_CORE(
            mix_gradient, rows + row * left, above + row * right, weight + at, weight + plane + at, back + row * left,
            grad + at, grad + plane + at, samples, i + 1 < number ? matrix : 0, far, left, right);
        if (far)
            __builtin_ia32_sfence();
    }
}
