#include "backend/prefixes.h"

#include <string.h>

/* A table seen as a string of block ids; past its end, less than any id. */
enum { END = INT32_MIN };

typedef struct tables {
    const qr_batch *batch;
    int block_size;
    int32_t *order, *blocks;
} tables;

static int num_blocks(const tables *t, int i)
{
    return (t->batch->seq_lens[t->order[i]] + t->block_size - 1) / t->block_size;
}

static const int32_t *block_ids(const tables *t, int i)
{
    return t->batch->block_table + (int64_t)t->order[i] * t->batch->max_blocks;
}

static int32_t block_at(const tables *t, int i, int depth)
{
    return depth < num_blocks(t, i) ? block_ids(t, i)[depth] : END;
}

/* Blocks in which all of [first, end) agree; `depth` of them are known. */
static int agreed(const tables *t, int first, int end, int depth)
{
    const int32_t *leader = block_ids(t, first);
    int limit = num_blocks(t, first);
    for (int i = first + 1; i < end && limit > depth; i++) {
        const int32_t *ids = block_ids(t, i);
        int d = depth, stop = num_blocks(t, i) < limit ? num_blocks(t, i) : limit;
        while (d < stop && ids[d] == leader[d]) d++;
        limit = d;
    }
    return limit;
}

static void swap(tables *t, int i, int j)
{
    int32_t req = t->order[i];
    t->order[i] = t->order[j];
    t->order[j] = req;
}

/* Sort [first, end), whose tables agree in their first `depth` blocks. */
static void sort(tables *t, int first, int end, int depth)
{
    while (end - first > 1) {
        depth = agreed(t, first, end, depth);
        int32_t pivot = block_at(t, first + (end - first) / 2, depth);
        int same = first, at = first, more = end; /* [first, same) less, [same, at) the pivot, [more, end) greater */
        while (at < more) {
            int32_t id = block_at(t, at, depth);
            if (id < pivot)
                swap(t, same++, at++);
            else if (id > pivot)
                swap(t, at, --more);
            else
                at++;
        }
        if (same > first) t->blocks[same] = depth;
        if (more < end) t->blocks[more] = depth;
        sort(t, first, same, depth);
        sort(t, more, end, depth);
        if (pivot == END) { /* these are equal */
            for (int i = same + 1; i < more; i++) t->blocks[i] = depth;
            return;
        }
        first = same;
        end = more;
        depth++;
    }
}

/* Are the tables in order, and have so many blocks in common with the one before as is noted? */
static bool is_sorted(const tables *t)
{
    for (int i = 1; i < t->batch->num_reqs; i++) {
        const int same = t->blocks[i];
        if (same > num_blocks(t, i - 1) || same > num_blocks(t, i)) return false;
        if (same > 0 && memcmp(block_ids(t, i - 1), block_ids(t, i), (size_t)same * sizeof(int32_t)) != 0) return false;
        const int32_t before = block_at(t, i - 1, same), here = block_at(t, i, same);
        if (before > here || (before == here && here != END)) return false;
    }
    return true;
}

void qr_batch_find_prefixes(const qr_batch *batch, int block_size, int num_known, int32_t *order, int32_t *blocks)
{
    tables t = {batch, block_size, order, blocks};
    if (batch->num_reqs == num_known && is_sorted(&t)) return;
    for (int i = 0; i < batch->num_reqs; i++) {
        order[i] = i;
        blocks[i] = 0;
    }
    sort(&t, 0, batch->num_reqs, 0);
}
