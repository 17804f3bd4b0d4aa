/* Registers of LANES numbers, which cores.h includes for each kind of core: NAME(x) is the name of x there. */

typedef float NAME(reals) __attribute__((vector_size(4 * LANES)));
typedef float NAME(loose) __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* as it lies in memory */
typedef int32_t NAME(whole) __attribute__((vector_size(4 * LANES)));

#define REALS NAME(reals)
#define LOOSE NAME(loose)
#define WHOLE NAME(whole)
#define AT(pointer) ((REALS)(*(const LOOSE *)(pointer)))
#define PUT(pointer, value) (*(LOOSE *)(pointer) = (LOOSE)(value))

/* The sum of each of LANES registers: neighbours are added until one register has all sums, in their order. */
INLINE REALS NAME(sums_of)(REALS *rows)
{
    WHOLE even, odd;
    for (int lane = 0; lane < LANES; lane++) {
        even[lane] = 2 * lane;
        odd[lane] = 2 * lane + 1;
    }
#pragma GCC unroll 4
    for (int count = LANES / 2; count > 0; count /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            rows[i] = __builtin_shuffle(rows[2 * i], rows[2 * i + 1], even) +
                      __builtin_shuffle(rows[2 * i], rows[2 * i + 1], odd);
    return rows[0];
}
