"""How fast the program is there. Time is the processor's, of one thread, best of several runs: what a free machine
would take, on a busy one too."""
import resource

from harness import MODEL, main, need_model, quire, test


def best_seconds(runs, *args):
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        quire(*args)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@test
def version_within_10_ms():
    seconds = best_seconds(20, "--version")
    print(f"quire --version: {seconds * 1000:.1f} ms")
    assert seconds < 0.010


@test
def first_token_within_a_second():
    need_model()
    seconds = best_seconds(5, "generate", MODEL, "-p", "Once upon a time", "--max-tokens", 1, "--threads", 1)
    print(f"start to first token: {seconds:.2f} s")
    assert seconds < 1


main()
