"""How fast the program is there: printed, not judged. Time is the processor's, of one thread, best of several runs:
what a free machine would take, on a busy one too."""
import resource

from harness import MODEL, main, need_model, quire, test


def best_seconds(runs, *args):
    times, outputs = [], set()
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outputs.add(quire(*args).stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert len(outputs) == 1 and outputs.pop().strip(), "every run says the same, and something"
    return min(times)


@test
def version():
    print(f"quire --version: {best_seconds(20, '--version') * 1000:.1f} ms")


@test
def first_token():
    need_model()
    seconds = best_seconds(5, "generate", MODEL, "-p", "Once upon a time", "--max-tokens", 1, "--temperature", 0,
                           "--threads", 1)
    print(f"start to first token: {seconds:.2f} s")


main()
