/* The arithmetic of pointwise.c, which cores.h includes once for each kind of core. Widths are multiples of 16, of which
 * LANES is a part.
 *
 * A product takes eight rows and one register of columns at a time: eight sums that do not wait for each other.
 */

/* The widths of the smaller models are constants to the compiler, which then knows how often each loop runs. */
#define BY_WIDTH(function, ...)                                                                                        \
    do {                                                                                                               \
        if (width == 16)                                                                                               \
            function(__VA_ARGS__, 16);                                                                                 \
        else if (width == 32)                                                                                          \
            function(__VA_ARGS__, 32);                                                                                 \
        else                                                                                                           \
            function(__VA_ARGS__, width);                                                                              \
    } while (0)

INLINE REALS NAME(chosen)(WHOLE where, REALS one, REALS other)
{
    return (REALS)((where & (WHOLE)one) | (~where & (WHOLE)other));
}

INLINE REALS NAME(power_of_two)(REALS y) /* -126 <= y <= 0 */
{
    const REALS rounding = 12582912.0f + (REALS){0}; /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    REALS shifted = y + rounding, rest = y - (shifted - rounding);
    REALS power = 0.0013264728769573672f * rest + 0.009671513183256843f;
    power = power * rest + 0.05550733744477069f;
    power = power * rest + 0.24022242077087902f;
    power = power * rest + 0.6931469775951122f;
    power = power * rest + 1.0f;
    return (REALS)((WHOLE)power + ((WHOLE)shifted << 23)); /* its last bits are n: n more in the exponent */
}

INLINE REALS NAME(bounded_size)(REALS x)
{
    REALS a = (REALS)((WHOLE)x & 0x7fffffff);
    return NAME(chosen)(a < FARTHEST, a, FARTHEST + (REALS){0});
}

INLINE REALS NAME(distribution)(REALS x)
{
    REALS a = NAME(bounded_size)(x), tail;
    REALS y = 2.5034635613555263e-05f * a - 0.0006991704671351518f;
    y = y * a + 0.00785382836427533f;
    y = y * a - 0.05307036418659455f;
    y = y * a - 0.4590140216228462f;
    y = y * a - 1.1511288559181072f;
    y = y * a - 0.9999995467449274f;
    tail = NAME(power_of_two)(y);
    return NAME(chosen)(x < 0.0f, tail, 1.0f - tail);
}

INLINE REALS NAME(density)(REALS x)
{
    REALS a = NAME(bounded_size)(x);
    return NAME(power_of_two)(-0.7213475204444817f * a * a - 1.3257480647361593f);
}

/* out = (out if ``add``, ``first`` if there is one, else 0) + a w, times ``scale`` if there is one: ``count`` rows, w
 * (depth, columns), first (columns), scale as out. */
INLINE void NAME(some_rows)(
    const float *a, const float *w, const float *first, const float *scale, int add, float *out, const int count,
    ptrdiff_t depth, ptrdiff_t columns)
{
    for (ptrdiff_t at = 0; at < columns; at += LANES) {
        REALS sums[EIGHT];
#pragma GCC unroll 8
        for (int row = 0; row < count; row++)
            sums[row] = add ? AT(out + row * columns + at) : first ? AT(first + at) : (REALS){0};
        for (ptrdiff_t k = 0; k < depth; k++) {
            REALS of_w = AT(w + k * columns + at);
#pragma GCC unroll 8
            for (int row = 0; row < count; row++)
                sums[row] += a[row * depth + k] * of_w;
        }
#pragma GCC unroll 8
        for (int row = 0; row < count; row++) {
            if (scale)
                sums[row] *= AT(scale + row * columns + at);
            PUT(out + row * columns + at, sums[row]);
        }
    }
}

INLINE void NAME(product)(
    const float *a, const float *w, const float *first, const float *scale, int add, float *out, ptrdiff_t rows,
    ptrdiff_t depth, ptrdiff_t columns)
{
    for (ptrdiff_t row = 0; row < rows;) {
        const float *of_a = a + row * depth, *of_scale = scale ? scale + row * columns : NULL;
        float *target = out + row * columns;
        if (row + EIGHT <= rows) {
            NAME(some_rows)(of_a, w, first, of_scale, add, target, EIGHT, depth, columns);
            row += EIGHT;
        } else {
            NAME(some_rows)(of_a, w, first, of_scale, add, target, 1, depth, columns);
            row += 1;
        }
    }
}

/* sums += a^T b: a (rows, left), b (rows, right), left and right of whole registers and eights. */
INLINE void NAME(add_outer)(
    const float *a, const float *b, float *sums, ptrdiff_t rows, ptrdiff_t left, ptrdiff_t right)
{
    for (ptrdiff_t i = 0; i < left; i += EIGHT)
        for (ptrdiff_t at = 0; at < right; at += LANES) {
            REALS own[EIGHT];
#pragma GCC unroll 8
            for (int k = 0; k < EIGHT; k++)
                own[k] = AT(sums + (i + k) * right + at);
            for (ptrdiff_t row = 0; row < rows; row++) {
                REALS of_b = AT(b + row * right + at);
#pragma GCC unroll 8
                for (int k = 0; k < EIGHT; k++)
                    own[k] += a[row * left + i + k] * of_b;
            }
#pragma GCC unroll 8
            for (int k = 0; k < EIGHT; k++)
                PUT(sums + (i + k) * right + at, own[k]);
        }
}

INLINE void NAME(activated_product_of)(
    const float *z, const float *columns, float *v, float *out, ptrdiff_t rows, ptrdiff_t width)
{
    for (ptrdiff_t row = 0; row < rows; row += NEAR) {
        ptrdiff_t some = smaller(NEAR, rows - row), at = row * width;
        for (ptrdiff_t i = at; i < at + some * width; i += LANES)
            PUT(v + i, AT(z + i) * NAME(distribution)(AT(z + i)));
        NAME(product)(v + at, columns, NULL, NULL, 0, out + at, some, width, width);
    }
}

static void NAME(activated_product)(
    const float *z, const float *columns, float *v, float *out, ptrdiff_t rows, ptrdiff_t width)
{
    BY_WIDTH(NAME(activated_product_of), z, columns, v, out, rows);
}

INLINE void NAME(layer_gradient_of)(
    const float *above, const float *z, const float *pointwise, float *grad, float *sums, ptrdiff_t rows,
    ptrdiff_t width)
{
    float v[NEAR * WIDEST], slope[NEAR * WIDEST];
    memset(sums, 0, width * width * sizeof *sums);
    for (ptrdiff_t row = 0; row < rows; row += NEAR) {
        ptrdiff_t some = smaller(NEAR, rows - row), at = row * width;
        for (ptrdiff_t i = 0; i < some * width; i += LANES) {
            REALS x = AT(z + at + i), below = NAME(distribution)(x);
            PUT(v + i, x * below);
            PUT(slope + i, below + x * NAME(density)(x));
        }
        NAME(add_outer)(above + at, v, sums, some, width, width);
        NAME(product)(above + at, pointwise, NULL, slope, 1, grad + at, some, width, width);
    }
}

static void NAME(layer_gradient)(
    const float *above, const float *z, const float *pointwise, float *grad, float *sums, ptrdiff_t rows,
    ptrdiff_t width)
{
    BY_WIDTH(NAME(layer_gradient_of), above, z, pointwise, grad, sums, rows);
}

INLINE void NAME(head_of)(
    const float *v, const float *columns, const float *bias, const float *outer, float outer_bias, float *u,
    ptrdiff_t rows, ptrdiff_t width)
{
    float h[2 * NEAR * WIDEST], found[NEAR];
    REALS of_row[NEAR];
    for (ptrdiff_t row = 0; row < rows; row += NEAR) {
        ptrdiff_t some = smaller(NEAR, rows - row);
        NAME(product)(v + row * width, columns, bias, NULL, 0, h, some, width, 2 * width);
        for (ptrdiff_t i = 0; i < NEAR; i++) {
            of_row[i] = (REALS){0};
            for (ptrdiff_t at = 0; i < some && at < 2 * width; at += LANES) {
                REALS x = AT(h + 2 * i * width + at);
                of_row[i] += x * NAME(distribution)(x) * AT(outer + at);
            }
        }
        for (ptrdiff_t i = 0; i < NEAR; i += LANES)
            PUT(found + i, NAME(sums_of)(of_row + i) + outer_bias);
        memcpy(u + row, found, some * sizeof *u);
    }
}

static void NAME(head)(
    const float *v, const float *columns, const float *bias, const float *outer, float outer_bias, float *u,
    ptrdiff_t rows, ptrdiff_t width)
{
    BY_WIDTH(NAME(head_of), v, columns, bias, outer, outer_bias, u, rows);
}

INLINE void NAME(head_gradient_of)(
    const float *v, const float *above, const float *columns, const float *inner, const float *bias,
    const float *outer, float *grad, float *sums, ptrdiff_t rows, ptrdiff_t width)
{
    float h[2 * NEAR * WIDEST], *of_outer = sums + 2 * width * width, *of_bias = of_outer + 2 * width;
    memset(sums, 0, (2 * width * width + 4 * width) * sizeof *sums);
    for (ptrdiff_t row = 0; row < rows; row += NEAR) {
        ptrdiff_t some = smaller(NEAR, rows - row);
        NAME(product)(v + row * width, columns, bias, NULL, 0, h, some, width, 2 * width);
        for (ptrdiff_t at = 0; at < 2 * width; at += LANES) {
            REALS own_outer = AT(of_outer + at), own_bias = AT(of_bias + at), factor = AT(outer + at);
            for (ptrdiff_t i = 0; i < some; i++) {
                float *here = h + 2 * i * width + at;
                REALS x = AT(here), below = NAME(distribution)(x);
                REALS grad_h = above[row + i] * factor * (below + x * NAME(density)(x));
                own_outer += above[row + i] * (x * below);
                own_bias += grad_h;
                PUT(here, grad_h);
            }
            PUT(of_outer + at, own_outer);
            PUT(of_bias + at, own_bias);
        }
        NAME(add_outer)(h, v + row * width, sums, some, 2 * width, width);
        NAME(product)(h, inner, NULL, NULL, 0, grad + row * width, some, 2 * width, width);
    }
}

static void NAME(head_gradient)(
    const float *v, const float *above, const float *columns, const float *inner, const float *bias,
    const float *outer, float *grad, float *sums, ptrdiff_t rows, ptrdiff_t width)
{
    BY_WIDTH(NAME(head_gradient_of), v, above, columns, inner, bias, outer, grad, sums, rows);
}

#undef BY_WIDTH
