"""Bugs planted in kv and scheduler, one at a time: the random tests (test_kv_model, test_sched_model) find each.

A bug is a small change to a copy of the source. The copy is compiled with the two tests, which must fail: by a
difference from their naive reference, by a recount (_check), or by an assertion. Without a bug both must pass."""
import concurrent.futures
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

from harness import ROOT, main, test

BUGS = [  # what is wrong, file, what stands there, what stands there instead
    # blocks and tables
    ("a fork takes no reference on the blocks", "kv/block_table.c",
     "    qr_block_pool_touch(pool, dst->block_ids, dst->num_blocks);\n", ""),
    ("a partly filled block that two tables hold is written in place", "kv/block_table.c",
     "qr_block_pool_ref_cnt(pool, partly_filled) > 1;", "qr_block_pool_ref_cnt(pool, partly_filled) > 2;"),
    ("copy-on-write keeps its reference on the source block", "kv/block_table.c",
     "        qr_block_pool_free(pool, &partly_filled, 1);\n", ""),
    ("a trim forgets num_full_blocks", "kv/block_table.c",
     "    table->num_full_blocks = min_i32(table->num_full_blocks, num_tokens / block_size);\n", ""),
    ("a trimmed block that is overwritten in place stays findable", "kv/block_table.c",
     "        qr_block_pool_uncache(pool, partly_filled);", "        (void)partly_filled;"),
    ("a block counts as full one token early", "kv/block_table.c",
     "if (num_live < block_size) break;", "if (num_live < block_size - 1) break;"),
    ("a copy that is withdrawn with its group is not undone", "kv/block_table.c",
     "    if (!copy) return;\n", "    if (copy || !copy) return;\n"),
    ("a list of blocks is freed first to last", "kv/block_pool.c",
     "for (int32_t i = num_blocks - 1; i >= 0; i--) {\n        block_use *use", "for (int32_t i = 0; i < num_blocks; i++) {\n        block_use *use"),
    ("cached blocks are evicted before empty ones", "kv/block_pool.c",
     "const bool at_new_end = pool->uses[id].cached;", "const bool at_new_end = !pool->uses[id].cached;"),
    ("an evicted block stays findable", "kv/block_pool.c",
     "    keep(pool, id);\n    qr_block_pool_uncache(pool, id);\n", "    keep(pool, id);\n"),
    ("a hit does not compare the parent", "kv/block_pool.c", "b->parent_content_id == parent_content_id &&", "true &&"),
    ("a hit does not compare the extra key", "kv/block_pool.c", "b->extra_key == extra_key &&", "true &&"),
    ("live slots are not taken back when a block is freed", "kv/block_pool.c",
     "        pool->num_live_slots -= use->num_live;\n", ""),
    ("blocks that are found are taken without leaving the free list", "kv/block_pool.c",
     "        free_list_remove(pool, ids[i]);\n", ""),
    ("a block loaded from the store counts no live slots", "kv/block_pool.c",
     "    qr_block_pool_set_live(pool, id, pool->block_size);\n", ""),
    ("a block is kept under its parent's key", "kv/block_pool.c",
     "const qr_block_content content = {b->key,", "const qr_block_content content = {b->parent_key,"),
    ("a block that was not in the store is not given back", "kv/block_pool.c",
     "        qr_block_pool_free(pool, &id, 1);\n        return QR_NO_BLOCK;", "        return QR_NO_BLOCK;"),
    ("an evicted block is not kept", "kv/block_pool.c",
     "    keep(pool, id);\n    qr_block_pool_uncache(pool, id);\n", "    qr_block_pool_uncache(pool, id);\n"),
    ("prefixes are loaded one block too far", "kv/block_table.c",
     "num_loads < max_loads && table->num_blocks < max_tokens / block_size;",
     "num_loads < max_loads && table->num_blocks <= max_tokens / block_size;"),
    ("loaded blocks do not count as full", "kv/block_table.c",
     "        table->block_ids[table->num_blocks++] = id;\n    }\n    table->num_full_blocks = table->num_blocks;\n",
     "        table->block_ids[table->num_blocks++] = id;\n    }\n"),
    ("a step loads as much as there is while others wait", "sched/step.c",
     "sched->num_entries == 0 ? INT32_MAX :", "true ? INT32_MAX :"),
    # requests
    ("a preempted sequence keeps num_computed_tokens", "sched/scheduler.c",
     "    seq->num_computed_tokens = 0;\n    if (seq->row", "    if (seq->row"),
    ("a finished sequence keeps its row", "sched/scheduler.c",
     "    if (seq->row >= 0) sched->free_rows[sched->num_free_rows++] = seq->row;\n", ""),
    ("an aborted group keeps its swap space", "sched/scheduler.c",
     "    qr_sched_free_swapped(sched, request);\n", ""),
    ("a dropped beam keeps its blocks", "sched/scheduler.c",
     "    qr_block_table_clear(&seq->table, sched->pool);\n    seq->num_computed_tokens = seq->num_output_tokens = 0;",
     "    seq->num_computed_tokens = seq->num_output_tokens = 0;"),
    ("a forked beam lacks its parent's last output", "sched/scheduler.c",
     "(size_t)parent->num_output_tokens * sizeof *child", "(size_t)(parent->num_output_tokens - 1) * sizeof *child"),
    ("the slots of refused drafts are not given back", "sched/scheduler.c",
     "    qr_block_table_trim(&seq->table, sched->pool, seq->num_computed_tokens);\n", ""),
    ("the queue ignores priorities", "sched/waiting_queue.c",
     "a->priority != b->priority ? a->priority < b->priority : a->arrival < b->arrival", "a->arrival < b->arrival"),
    ("the heap is not repaired upwards after a removal", "sched/waiting_queue.c",
     "    if (idx > 0 && qr_request_before(last, queue->heap[(idx - 1) / 2]))\n        sift_up(queue, idx, last);\n    else\n", ""),
    # a step
    ("forked sequences do not get num_computed_tokens", "sched/step.c",
     "        seq->num_computed_tokens = lead->num_computed_tokens;\n", ""),
    ("the first running group is preempted, not the last", "sched/step.c",
     "request : sched->running[sched->num_running - 1];", "request : sched->running[0];"),
    ("requests are admitted in a step with preemptions", "sched/step.c",
     "if (sched->num_preempted == 0) admit_waiting(sched);", "admit_waiting(sched);"),
    ("a group is admitted although its blocks are not free", "sched/step.c",
     "bool fits = sched->buddy || wanted + promised <= qr_block_pool_num_free(pool);", "bool fits = true;"),
    ("no budget is kept for the sequences that follow", "sched/step.c",
     "budget - num_active_here - *num_active_after", "budget - num_active_here"),
    ("the whole prompt is taken from the cache", "sched/step.c",
     "qr_seq_tokens(lead), target - 1, request->extra_key);", "qr_seq_tokens(lead), target, request->extra_key);"),
    ("copies of a group that is preempted itself are kept", "sched/step.c",
     "    sched->num_copies = first_copy;\n", "    (void)first_copy;\n"),
    ("what a group shares is taken from the lengths alone", "sched/step.c",
     "while (same < num_shared && qr_seq_token(seq, same) == qr_seq_token(lead, same)) same++;", "same = num_shared;"),
    ("lockstep groups sample one sequence at a time", "sched/step.c",
     "i < request->n && request->lockstep; i++", "i < request->n && false; i++"),
    # regions and the policies that use them
    ("a freed region is not merged with its buddy", "kv/buddy.c",
     "buddy->chunks[other].order != order) break;", "buddy->chunks[other].order != order || true) break;"),
    ("what is left of a split chunk is lost", "kv/buddy.c",
     "        list_add(buddy, first + blocks_of(order), order);\n", ""),
    ("drafts are placed beyond the region", "kv/block_table.c",
     "    if (table->num_region_blocks > 0 && num_blocks > table->num_region_blocks) return INT32_MAX;\n", ""),
    ("a fork's second block is copied to the wrong place", "kv/block_table.c",
     ".dst_block = dst->block_ids[i]};\n        qr_block_pool_set_live",
     ".dst_block = dst->block_ids[0]};\n        qr_block_pool_set_live"),
    ("a finished sequence keeps its region", "sched/region.c",
     "        give_back(sched, seq);\n    } else", "    } else"),
    ("the copies of a fork are forgotten", "sched/region.c",
     "    sched->num_fork_copies += parent->table.num_blocks;\n", ""),
    ("slots to come of a finished sequence are still counted", "sched/region.c",
     "    sched->num_final_slots -= qr_request_final_slots(seq->request);\n", ""),
    ("free slots count as external though nobody waits", "sched/memory.c",
     "sched->lacks_region ? num_free : 0", "num_free"),
    ("a sequence that outlived its region gets the same again", "sched/step.c",
     "            if (sched->buddy) request->expected_output_tokens = request->max_output_tokens;\n", ""),
    ("another is preempted for a sequence that outlived its region", "sched/step.c",
     "sched->buddy ? request : sched->running", "sched->running"),
    ("vllm-v0 computes prompts beside running sequences", "sched/policy_vllm_v0.c",
     "    if (sched->num_entries > 0) return;\n", ""),
    ("vllm-v0 treats swapped groups as prompts", "sched/policy_vllm_v0.c",
     "if (!request || is_swapped(request) ||", "if (!request ||"),
    # swap space
    ("swapping forgets a reference on a shared block", "sched/swap.c", "        qr_block_pool_touch(pool, to, 1);\n", ""),
    ("a block that two tables share is swapped twice", "sched/swap.c",
     "    if (*to != QR_NO_BLOCK) {\n", "    if (false) {\n"),
    ("the map of moved blocks is not cleared", "sched/swap.c",
     "    forget_moves(sched, sched->swap_ins, first, sched->num_swap_ins);\n", "    (void)first;\n"),
]

SOURCES = [*(ROOT / "src" / "base" / f"{name}.c" for name in ("clock", "log", "mem", "status")),
           *sorted((ROOT / "src" / "kv").glob("*.c")), *sorted((ROOT / "src" / "sched").glob("*.c")),
           ROOT / "tests" / "test_kv_model.c", ROOT / "tests" / "test_sched_model.c"]
CC = shlex.split(os.environ.get("CC", "cc"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-DQUIRE_VERSION=\"\"", f"-I{ROOT / 'include'}", f"-I{ROOT / 'src'}", f"-I{ROOT / 'tests'}"]
folder = pathlib.Path(tempfile.mkdtemp(prefix="quire-test-bugs-"))


def run(*command):
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)


def compile_one(source, output, *flags):
    done = run(*CC, *FLAGS, *flags, "-c", source, "-o", output)
    assert done.returncode == 0, done.stdout.decode()
    return output


def link_and_run(objects, name):
    """The two tests' ends; the second one is spared once the first has failed."""
    result = {}
    for program in ("test_kv_model", "test_sched_model"):
        parts = [path for stem, path in objects.items() if not stem.startswith("test_") or stem == program]
        binary = folder / f"{name}-{program}"
        done = run(*CC, *parts, "-o", binary, "-lcmocka", "-lxxhash", "-lpthread")
        assert done.returncode == 0, done.stdout.decode()
        done = run(binary)
        binary.unlink()
        result[program] = done
        if done.returncode != 0:
            break
    return result


def plant(number, objects):
    what, file, old, new = BUGS[number]
    text = (ROOT / "src" / file).read_text()
    assert text.count(old) == 1, f"{file} has changed; adapt the bug: {what}"
    source = folder / f"{number}.c"
    source.write_text(text.replace(old, new))
    changed = {**objects, pathlib.Path(file).stem: compile_one(source, folder / f"{number}.o")}
    for program, done in link_and_run(changed, number).items():
        if done.returncode != 0:
            lines = done.stdout.decode(errors="replace").splitlines()
            said = next((line for line in lines if "ERROR" in line or "Assertion" in line or "!=" in line), lines[-1])
            return f"{program}: {said.strip()[:100]}"
    return None


@test
def the_random_tests_find_planted_bugs():
    try:
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            objects = dict(zip((path.stem for path in SOURCES), pool.map(
                lambda path: compile_one(path, folder / f"{path.stem}.o"), SOURCES)))
            clean = link_and_run(objects, "clean")
            assert [done.returncode for done in clean.values()] == [0, 0], "the tests fail without a bug"
            found = [pool.submit(plant, number, objects) for number in range(len(BUGS))]
            for (what, *_), future in zip(BUGS, found):
                print(f"  {what}: {future.result() or 'NOT FOUND'}")
        num_found = sum(future.result() is not None for future in found)
        print(f"  {num_found} of {len(BUGS)} found")
        assert num_found == len(BUGS)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
