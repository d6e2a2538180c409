/* What the calls of Gemmini's library compute, for any C compiler: by fxpress, after the library's documentation.
 *
 * A stand-in for include/gemmini.h where there is no Gemmini: results are equal, time and memories are not modelled.
 * Elements are int8, sums int32, scales float32. A sum becomes an element by one product in float32, rounding half to
 * even, and saturation. What the library would refuse, or what generated C does not ask for, ends the program.
 */
#ifndef FXPRESS_GEMMINI_HOST_MODEL_H
#define FXPRESS_GEMMINI_HOST_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "include/gemmini_params.h"

#define NO_ACTIVATION 0
#define RELU 1

enum tiled_matmul_type_t { OS, WS, CPU };

#define MODEL static inline __attribute__((unused))

MODEL void gemmini_flush(int skip) { (void)skip; }
MODEL void gemmini_fence(void) {}

MODEL void model_require(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "Gemmini's library must be called so that %s\n", what);
    exit(2);
}

MODEL elem_t model_round(acc_t x, float scale) {
    volatile float y = (float)x * scale;
    if (y >= 127.0f) return 127;
    if (y <= -128.0f) return -128;
    volatile float shifted = y + 12582912.0f; /* 1.5 * 2^23: floats of that size are integers */
    return (elem_t)(shifted - 12582912.0f);
}

MODEL elem_t model_output(acc_t sum, int activation, float scale) {
    elem_t y = model_round(sum, scale);
    return activation == RELU && y < 0 ? 0 : y;
}

/* C[I][J] = A[I][K] @ B[K][J] + D; as acc_t when full_C. */
MODEL void tiled_matmul_auto(
    size_t I, size_t J, size_t K, const elem_t *A, const elem_t *B, const void *D, void *C, size_t stride_A,
    size_t stride_B, size_t stride_D, size_t stride_C, scale_t A_scale, scale_t B_scale, scale_acc_t D_scale,
    int activation, acc_scale_t scale, acc_scale_t bert_scale, bool repeating_bias, bool transpose_A, bool transpose_B,
    bool full_C, bool low_D, uint8_t weightA, enum tiled_matmul_type_t type) {
    (void)bert_scale, (void)weightA;
    model_require(type != OS || !low_D, "low_D is with WS");
    model_require(!transpose_A && !transpose_B && !low_D && type != CPU, "operands are plain, and not on the CPU");
    model_require(A_scale == 1 && B_scale == 1 && D_scale == 1, "matrices are not scaled when loaded");
    model_require(activation == NO_ACTIVATION || activation == RELU, "the activation is a rectifier or none");
    for (size_t i = 0; i < I; i++)
        for (size_t j = 0; j < J; j++) {
            acc_t sum = D ? ((const acc_t *)D)[(repeating_bias ? 0 : i) * stride_D + j] : 0;
            for (size_t k = 0; k < K; k++) sum += A[i * stride_A + k] * B[k * stride_B + j];
            if (full_C)
                ((acc_t *)C)[i * stride_C + j] = sum;
            else
                ((elem_t *)C)[i * stride_C + j] = model_output(sum, activation, scale);
        }
}

struct model_conv {
    int n, height, width, ic, oc, out_height, out_width, stride, dilation, padding, kernel, activation;
    int pool_size, pool_stride, pool_padding;
    bool depthwise;
    float scale;
    const elem_t *x, *w;
    const acc_t *bias;
    elem_t *y;
};

MODEL elem_t model_conv_pixel(const struct model_conv *c, int n, int row, int column, int channel) {
    acc_t sum = c->bias ? c->bias[channel] : 0;
    for (int i = 0; i < c->kernel; i++)
        for (int j = 0; j < c->kernel; j++) {
            int h = row * c->stride + i * c->dilation - c->padding, w = column * c->stride + j * c->dilation - c->padding;
            if (h < 0 || h >= c->height || w < 0 || w >= c->width) continue;
            const elem_t *pixel = c->x + ((n * c->height + h) * c->width + w) * c->ic;
            if (c->depthwise)
                sum += pixel[channel] * c->w[(channel * c->kernel + i) * c->kernel + j];
            else
                for (int k = 0; k < c->ic; k++)
                    sum += pixel[k] * c->w[((i * c->kernel + j) * c->ic + k) * c->oc + channel];
        }
    return model_output(sum, c->activation, c->scale);
}

/* Max pooling sees padding as 0. */
MODEL void model_conv(struct model_conv c) {
    model_require(c.kernel > c.padding, "padding is smaller than the kernel");
    if (c.pool_stride == 0) c.pool_size = 1, c.pool_stride = 1, c.pool_padding = 0;
    int rows = (c.out_height + 2 * c.pool_padding - c.pool_size) / c.pool_stride + 1;
    int columns = (c.out_width + 2 * c.pool_padding - c.pool_size) / c.pool_stride + 1;
    for (int n = 0; n < c.n; n++)
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++)
                for (int channel = 0; channel < c.oc; channel++) {
                    elem_t most = -128;
                    for (int i = 0; i < c.pool_size; i++)
                        for (int j = 0; j < c.pool_size; j++) {
                            int h = row * c.pool_stride + i - c.pool_padding;
                            int w = column * c.pool_stride + j - c.pool_padding;
                            bool inside = h >= 0 && h < c.out_height && w >= 0 && w < c.out_width;
                            elem_t y = inside ? model_conv_pixel(&c, n, h, w, channel) : 0;
                            if (y > most) most = y;
                        }
                    c.y[((n * rows + row) * columns + column) * c.oc + channel] = most;
                }
}

/* Images [n][height][width][channels], weights [kernel][kernel][ic][oc]. pool_stride 0 is no pooling. */
MODEL void tiled_conv_auto(
    int n, int height, int width, int ic, int oc, int out_height, int out_width, int stride, int input_dilation,
    int kernel_dilation, int padding, int kernel, bool wrot180, bool trans_output_1203, bool trans_input_3120,
    bool trans_weight_1203, bool trans_weight_0132, const elem_t *x, const elem_t *w, const acc_t *bias, elem_t *y,
    int activation, acc_scale_t scale, int pool_size, int pool_stride, int pool_padding,
    enum tiled_matmul_type_t type) {
    model_require(type == WS, "convolutions are weight stationary");
    model_require(input_dilation == 1 && !wrot180 && !trans_output_1203 && !trans_input_3120 && !trans_weight_1203 &&
                      !trans_weight_0132, "operands are plain");
    model_conv((struct model_conv){n, height, width, ic, oc, out_height, out_width, stride, kernel_dilation, padding,
                                   kernel, activation, pool_size, pool_stride, pool_padding, false, scale, x, w, bias, y});
}

/* Weights [channels][kernel][kernel]. */
MODEL void tiled_conv_dw_auto(
    int n, int height, int width, int channels, int out_height, int out_width, int stride, int padding, int kernel,
    elem_t *x, elem_t *w, acc_t *bias, elem_t *y, int activation, acc_scale_t scale, int pool_size, int pool_stride,
    int pool_padding, enum tiled_matmul_type_t type) {
    model_require(type == WS, "convolutions are weight stationary");
    model_conv((struct model_conv){n, height, width, channels, channels, out_height, out_width, stride, 1, padding, kernel,
                                   activation, pool_size, pool_stride, pool_padding, true, scale, x, w, bias, y});
}

/* Both operands are rounded to elements when loaded. */
MODEL void tiled_resadd_auto(
    size_t I, size_t J, scale_t A_scale, scale_t B_scale, acc_scale_t C_scale, const elem_t *A, const elem_t *B,
    elem_t *C, bool relu, enum tiled_matmul_type_t type) {
    model_require(type == WS, "sums are weight stationary");
    for (size_t i = 0; i < I * J; i++)
        C[i] = model_output(model_round(A[i], A_scale) + model_round(B[i], B_scale), relu ? RELU : NO_ACTIVATION, C_scale);
}

/* The mean of images [batches][dim][dim][channels]. */
MODEL void tiled_global_average_auto(
    const elem_t *x, elem_t *y, int batches, int channels, int dim, enum tiled_matmul_type_t type) {
    model_require(type == WS, "means are weight stationary");
    for (int n = 0; n < batches; n++)
        for (int c = 0; c < channels; c++) {
            acc_t sum = 0;
            for (int i = 0; i < dim * dim; i++) sum += x[(n * dim * dim + i) * channels + c];
            y[n * channels + c] = model_output(sum, NO_ACTIVATION, 1.0 / (dim * dim));
        }
}

#endif
