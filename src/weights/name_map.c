#include <string.h>
#include <xxhash.h>

#include "weights/checkpoint_impl.h"

/* The slot that holds the name, or the free one where it belongs. */
static qr_name_slot *find_slot(const qr_name_map *map, const char *name, uint64_t hash)
{
    size_t mask = map->num_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        qr_name_slot *slot = &map->slots[i];
        if (!slot->name || (slot->hash == hash && strcmp(slot->name, name) == 0)) return slot;
    }
}

int qr_name_map_reserve(qr_name_map *map, size_t extra)
{
    size_t num_slots = 16;
    while (num_slots / 2 < map->num_used + extra) num_slots *= 2;
    if (num_slots <= map->num_slots) return 0;
    qr_name_map grown = {qr_calloc(num_slots, sizeof *grown.slots), num_slots, map->num_used};
    if (!grown.slots) return -1;
    for (size_t i = 0; i < map->num_slots; i++) {
        const qr_name_slot *slot = &map->slots[i];
        if (slot->name) *find_slot(&grown, slot->name, slot->hash) = *slot;
    }
    qr_free(map->slots);
    *map = grown;
    return 0;
}

bool qr_name_map_add(qr_name_map *map, const char *name, int idx)
{
    uint64_t hash = XXH3_64bits(name, strlen(name));
    qr_name_slot *slot = find_slot(map, name, hash);
    if (slot->name) return false;
    *slot = (qr_name_slot){name, hash, idx};
    map->num_used++;
    return true;
}

int qr_name_map_find(const qr_name_map *map, const char *name)
{
    if (map->num_slots == 0) return -1;
    const qr_name_slot *slot = find_slot(map, name, XXH3_64bits(name, strlen(name)));
    return slot->name ? slot->idx : -1;
}

void qr_name_map_deinit(qr_name_map *map)
{
    qr_free(map->slots);
    *map = (qr_name_map){0};
}
