/* fuzz sim: what the simulator reads from files: traces, beam records, schedule logs, machines. The first byte chooses.
 * A schedule that is accepted is also run again, as far as it goes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sim/beams.h"
#include "sim/hardware.h"
#include "sim/schedule.h"

static void read_schedule(const char *text, size_t bytes)
{
    qr_sim_schedule schedule;
    qr_sim_replay replay;
    qr_sim_fit fit;
    if (qr_sim_schedule_parse("s", text, bytes, &schedule, NULL) != QUIRE_OK) return;
    qr_sched_options *o = &schedule.options;
    if (o->num_blocks < 1000 && o->max_num_seqs < 1000 && o->max_model_len < 10000 && o->num_swap_blocks < 1000 &&
        o->max_num_batched_tokens < 10000) {
        (void)!qr_sim_schedule_replay(&schedule, &replay, NULL);
        (void)!qr_sim_schedule_fit(&schedule, &fit, NULL);
    }
    qr_sim_schedule_deinit(&schedule);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) return 0;
    char *text = malloc(bytes); /* exactly as long, so that the sanitizer sees a read past the end */
    if (!text) return 0;
    memcpy(text, data + 1, bytes - 1);
    qr_sim_trace trace;
    qr_sim_beams beams;
    qr_sim_device device = {0};
    qr_sim_model model;
    switch (data[0] % 5) {
    case 0:
        if (qr_sim_trace_parse("t", text, bytes - 1, &trace, NULL) == QUIRE_OK) qr_sim_trace_deinit(&trace);
        break;
    case 1:
        if (qr_sim_beams_parse("b", text, bytes - 1, &beams, NULL) == QUIRE_OK) qr_sim_beams_deinit(&beams);
        break;
    case 2: read_schedule(text, bytes - 1); break;
    case 3:
        (void)!qr_sim_parse_device("d", text, bytes - 1, &device, NULL);
        (void)!qr_sim_apply_calibration("c", text, bytes - 1, &device, NULL);
        break;
    default: (void)!qr_sim_parse_model("m", text, bytes - 1, &model, NULL);
    }
    free(text);
    return 0;
}
