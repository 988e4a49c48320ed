/* embedded: files of data/ that are part of the program, byte by byte, NUL behind. */
#ifndef QR_SIM_EMBEDDED_H
#define QR_SIM_EMBEDDED_H

extern const char qr_sim_sharegpt_csv[], qr_sim_sharegpt_csv_end[]; /* data/traces/sharegpt_lengths.csv */
extern const char qr_sim_beams_csv[], qr_sim_beams_csv_end[];       /* data/beam_parents.csv */

#endif
