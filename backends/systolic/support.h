#include <stddef.h>
#include <stdint.h>

enum { FXPRESS_DIMS = 8 };

/* The host makes sliding windows [n, positions, kernel, c] of a tensor [n, spatial, c] (or [n, c, spatial]) first. */
struct fxpress_windows {
    int rank;
    int64_t kernel[FXPRESS_DIMS], stride[FXPRESS_DIMS], padding[FXPRESS_DIMS], dilation[FXPRESS_DIMS];
    int fill, channels_last;
};

/* Element (i0, i1, ...) lies at byte address + tables[0][i0] + tables[1][i1] + ... of DRAM, little-endian. */
struct fxpress_value {
    const char *name;
    int item_bytes, dims;
    const int64_t *shape;
    int table_dims;
    const int64_t *counts;
    const int64_t *const *tables;
    uint64_t address;
    double scale;
    int zero;
    const struct fxpress_windows *windows;
};

static inline uint64_t fxpress_address(const struct fxpress_value *value, const int64_t *index) {
    uint64_t address = value->address;
    for (int dim = 0; dim < value->table_dims; dim++) address += (uint64_t)value->tables[dim][index[dim]];
    return address;
}

static inline int fxpress_next(const struct fxpress_value *value, int64_t *index) {
    for (int dim = value->table_dims - 1; dim >= 0; dim--) {
        if (++index[dim] < value->counts[dim]) return 1;
        index[dim] = 0;
    }
    return 0;
}

/* Where the window element of that index comes from in the tensor, in elements; -1 for padding. */
static inline int64_t fxpress_source(const struct fxpress_value *value, const int64_t *index) {
    const struct fxpress_windows *w = value->windows;
    int64_t at = index[0];
    if (!w->channels_last) at = at * value->shape[1] + index[2 * w->rank + 1];
    for (int dim = 0; dim < w->rank; dim++) {
        int64_t size = value->shape[1 + !w->channels_last + dim];
        int64_t place = index[1 + dim] * w->stride[dim] + index[1 + w->rank + dim] * w->dilation[dim] - w->padding[dim];
        if (place < 0 || place >= size) return -1;
        at = at * size + place;
    }
    if (w->channels_last) at = at * value->shape[value->dims - 1] + index[2 * w->rank + 1];
    return at;
}

/* Write a dense tensor of value->shape to DRAM. */
static inline void fxpress_write(uint8_t *dram, const struct fxpress_value *value, const void *tensor) {
    const uint8_t *bytes = (const uint8_t *)tensor;
    int64_t index[2 * FXPRESS_DIMS + 2] = {0};
    int64_t number = 0;
    do {
        int64_t from = value->windows ? fxpress_source(value, index) : number;
        uint8_t *to = dram + fxpress_address(value, index);
        for (int i = 0; i < value->item_bytes; i++)
            to[i] = from < 0 ? (uint8_t)(value->windows->fill >> (8 * i)) : bytes[from * value->item_bytes + i];
        number++;
    } while (fxpress_next(value, index));
}

/* Read a dense tensor of value->shape from DRAM. */
static inline void fxpress_read(const uint8_t *dram, const struct fxpress_value *value, void *tensor) {
    uint8_t *bytes = (uint8_t *)tensor;
    int64_t index[2 * FXPRESS_DIMS + 2] = {0};
    do {
        const uint8_t *from = dram + fxpress_address(value, index);
        for (int i = 0; i < value->item_bytes; i++) *bytes++ = from[i];
    } while (fxpress_next(value, index));
}
