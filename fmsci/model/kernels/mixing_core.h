/* The arithmetic of mixing.c, which cores.h includes once for each kind of core. Widths are multiples of 16.
 *
 * Rows (2 samples, width) are real parts of all samples, then imaginary ones. While the matrices (left, right) of one
 * wavenumber are worked on, those of the next, which lie ``ahead``, are fetched.
 */

/* out = rows (real + i imag): ``some`` samples from one on, ``registers`` registers of columns from ``at`` on. */
INLINE void NAME(mix_some)(
    const float *rows, const float *real, const float *imag, float *out, ptrdiff_t samples, ptrdiff_t left,
    ptrdiff_t right, ptrdiff_t ahead, ptrdiff_t at, const int some, const int registers)
{
    const float *of_real = rows, *of_imag = rows + samples * left;
    REALS sums[2][4][2] = {{{{0}}}};
    for (ptrdiff_t k = 0; k < left; k++) {
        REALS w[2], x[2];
#pragma GCC unroll 2
        for (int i = 0; i < registers; i++) {
            ptrdiff_t here = k * right + at + i * LANES;
            w[i] = AT(real + here);
            x[i] = AT(imag + here);
            if (ahead) {
                __builtin_prefetch(real + ahead + here);
                __builtin_prefetch(imag + ahead + here);
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < some; b++) {
            float p = of_real[b * left + k], q = of_imag[b * left + k];
#pragma GCC unroll 2
            for (int i = 0; i < registers; i++) {
                sums[0][b][i] += p * w[i];
                sums[1][b][i] += q * w[i];
                sums[0][b][i] -= q * x[i];
                sums[1][b][i] += p * x[i];
            }
        }
    }
#pragma GCC unroll 2
    for (int part = 0; part < 2; part++)
#pragma GCC unroll 4
        for (int b = 0; b < some; b++)
#pragma GCC unroll 2
            for (int i = 0; i < registers; i++)
                PUT(out + (part * samples + b) * right + at + i * LANES, sums[part][b][i]);
}

INLINE void NAME(mix_columns)(
    const float *rows, const float *real, const float *imag, float *out, ptrdiff_t samples, ptrdiff_t left,
    ptrdiff_t right, ptrdiff_t ahead, const int some)
{
    ptrdiff_t at = 0;
    for (; LANES == 16 && at + 2 * LANES <= right; at += 2 * LANES)
        NAME(mix_some)(rows, real, imag, out, samples, left, right, ahead, at, some, 2);
    for (; at < right; at += LANES)
        NAME(mix_some)(rows, real, imag, out, samples, left, right, ahead, at, some, 1);
}

INLINE void NAME(mix_of)(
    const float *rows, const float *real, const float *imag, float *out, ptrdiff_t samples, ptrdiff_t ahead,
    ptrdiff_t left, ptrdiff_t right)
{
    ptrdiff_t b = 0;
    for (; b + 4 <= samples; b += 4, ahead = 0)
        NAME(mix_columns)(rows + b * left, real, imag, out + b * right, samples, left, right, ahead, 4);
    switch (samples - b) {
    case 3:
        NAME(mix_columns)(rows + b * left, real, imag, out + b * right, samples, left, right, ahead, 3);
        break;
    case 2:
        NAME(mix_columns)(rows + b * left, real, imag, out + b * right, samples, left, right, ahead, 2);
        break;
    case 1:
        NAME(mix_columns)(rows + b * left, real, imag, out + b * right, samples, left, right, ahead, 1);
    }
}

/* back = above (real + i imag)^H: ``some`` samples from one on, of all columns. */
INLINE void NAME(unmix_some)(
    const float *above, const float *real, const float *imag, float *back, ptrdiff_t samples, ptrdiff_t left,
    ptrdiff_t right, ptrdiff_t ahead, const int some)
{
    const float *of_real = above, *of_imag = above + samples * right;
    for (ptrdiff_t k = 0; k < left; k += 4) {
        REALS sums[16] = {{0}}; /* of sample, part and column */
        float found[16];
        for (ptrdiff_t at = 0; at < right; at += LANES)
#pragma GCC unroll 2
            for (int plane = 0; plane < 2; plane++) {
                const float *matrix = (plane ? imag : real) + k * right + at;
                REALS w[4];
#pragma GCC unroll 4
                for (int c = 0; c < 4; c++) {
                    w[c] = AT(matrix + c * right);
                    if (ahead)
                        __builtin_prefetch(matrix + ahead + c * right);
                }
#pragma GCC unroll 2
                for (int b = 0; b < some; b++) {
                    REALS p = AT(of_real + b * right + at), q = AT(of_imag + b * right + at);
#pragma GCC unroll 4
                    for (int c = 0; c < 4; c++) {
                        sums[8 * b + c] += (plane ? q : p) * w[c];
                        sums[8 * b + 4 + c] += (plane ? -p : q) * w[c];
                    }
                }
            }
#pragma GCC unroll 2
        for (int i = 0; i < 16; i += LANES)
            PUT(found + i, NAME(sums_of)(sums + i));
        for (int b = 0; b < some; b++)
            for (int part = 0; part < 2; part++)
                memcpy(back + (part * samples + b) * left + k, found + 8 * b + 4 * part, 4 * sizeof *found);
    }
}

/* grad_real + i grad_imag = rows^H above, past the caches where ``far`` and a register is a whole line of them. */
INLINE void NAME(outer)(
    const float *rows, const float *above, float *grad_real, float *grad_imag, ptrdiff_t samples, int far,
    ptrdiff_t left, ptrdiff_t right)
{
    enum { SOME = LANES / 2 };
    const float *rows_imag = rows + samples * left, *above_imag = above + samples * right;
    for (ptrdiff_t k = 0; k < left; k += SOME)
        for (ptrdiff_t at = 0; at < right; at += LANES) {
            REALS sums[2][SOME] = {{{0}}};
            for (ptrdiff_t b = 0; b < samples; b++) {
                REALS p = AT(above + b * right + at), q = AT(above_imag + b * right + at);
#pragma GCC unroll 8
                for (int c = 0; c < SOME; c++) {
                    float r = rows[b * left + k + c], s = rows_imag[b * left + k + c];
                    sums[0][c] += r * p;
                    sums[1][c] += r * q;
                    sums[0][c] += s * q;
                    sums[1][c] -= s * p;
                }
            }
#pragma GCC unroll 8
            for (int c = 0; c < SOME; c++) {
                ptrdiff_t here = (k + c) * right + at;
                if (far && LANES == 16) {
                    PAST_CACHES(grad_real + here, sums[0][c]);
                    PAST_CACHES(grad_imag + here, sums[1][c]);
                } else {
                    PUT(grad_real + here, sums[0][c]);
                    PUT(grad_imag + here, sums[1][c]);
                }
            }
        }
}

INLINE void NAME(mix_gradient_of)(
    const float *rows, const float *above, const float *real, const float *imag, float *back, float *grad_real,
    float *grad_imag, ptrdiff_t samples, ptrdiff_t ahead, int far, ptrdiff_t left, ptrdiff_t right)
{
    for (ptrdiff_t b = 0; b < samples; ahead = 0) {
        const float *of = above + b * right;
        float *to = back + b * left;
        if (b + 2 <= samples) {
            NAME(unmix_some)(of, real, imag, to, samples, left, right, ahead, 2);
            b += 2;
        } else {
            NAME(unmix_some)(of, real, imag, to, samples, left, right, ahead, 1);
            b += 1;
        }
    }
    NAME(outer)(rows, above, grad_real, grad_imag, samples, far, left, right);
}

/* The widths of the smaller models are constants to the compiler, which then knows how often each loop runs. */
#define BY_WIDTHS(function, ...)                                                                                       \
    do {                                                                                                               \
        if (left == 16 && right == 16)                                                                                 \
            function(__VA_ARGS__, 16, 16);                                                                             \
        else if (left == 32 && right == 32)                                                                            \
            function(__VA_ARGS__, 32, 32);                                                                             \
        else                                                                                                           \
            function(__VA_ARGS__, left, right);                                                                        \
    } while (0)

static void NAME(mix)(
    const float *rows, const float *real, const float *imag, float *out, ptrdiff_t samples, ptrdiff_t ahead,
    ptrdiff_t left, ptrdiff_t right)
{
    BY_WIDTHS(NAME(mix_of), rows, real, imag, out, samples, ahead);
}

static void NAME(mix_gradient)(
    const float *rows, const float *above, const float *real, const float *imag, float *back, float *grad_real,
    float *grad_imag, ptrdiff_t samples, ptrdiff_t ahead, int far, ptrdiff_t left, ptrdiff_t right)
{
    BY_WIDTHS(NAME(mix_gradient_of), rows, above, real, imag, back, grad_real, grad_imag, samples, ahead, far);
}

#undef BY_WIDTHS
