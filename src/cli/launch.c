/* --tensor-parallel-size N without mpirun: the program starts itself under it and waits.
 *
 *   quire serve ... ──► mpirun -n N ──┬─► rank 0   serves; a SIGTERM goes here, so that it drains
 *                                     └─► rank 1 ...
 *
 * Until rank 0 has its model, and when it does not say that it has, signals go to mpirun, which ends all ranks. They
 * end too when this process does. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/comm.h"
#include "base/mem.h"
#include "cli/cli.h"

#define LAUNCHER "QUIRE_LAUNCHER_PID" /* set for the ranks: they start no others */

bool qr_cli_is_rank(void)
{
    /* Open MPI; MPICH and others with its interface; Slurm and others with PMIx */
    return getenv(LAUNCHER) || getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_SIZE") || getenv("PMIX_RANK");
}

void qr_cli_ranks_are_ready(void)
{
    const char *text = getenv(LAUNCHER);
    const pid_t launcher = text ? (pid_t)atol(text) : 0;
    if (launcher > 1 && getsid(launcher) == getsid(0)) kill(launcher, SIGUSR1); /* it is on this machine */
}

static void become_mpirun(char *const *words, pid_t parent)
{
    char pid[24];
    snprintf(pid, sizeof pid, "%ld", (long)parent);
    setenv(LAUNCHER, pid, 1);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent) execvp(words[0], words);
    qr_cli_fail("--tensor-parallel-size %s needs mpirun: %s (Debian: apt-get install openmpi-bin)", words[2],
                strerror(errno));
    _exit(QR_CLI_FAILED);
}

static int wait_for(pid_t mpirun, const sigset_t *signals)
{
    pid_t leader = 0;
    for (;;) {
        siginfo_t info;
        int status;
        const int sig = sigwaitinfo(signals, &info);
        if (sig == SIGUSR1) leader = info.si_pid;
        if (sig == SIGTERM || sig == SIGINT) kill(leader ? leader : mpirun, sig);
        if (sig == SIGCHLD && waitpid(mpirun, &status, WNOHANG) == mpirun)
            return WIFEXITED(status) ? WEXITSTATUS(status) : QR_CLI_FAILED;
    }
}

static int run(char *const *words)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, &before);
    const pid_t parent = getpid(), mpirun = fork();
    if (mpirun == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        become_mpirun(words, parent);
    }
    return mpirun < 0 ? qr_cli_fail("mpirun: %s", strerror(errno)) : wait_for(mpirun, &signals);
}

int qr_cli_run_ranks(int num_ranks, char *const *argv)
{
    quire_error error;
    char program[PATH_MAX], size[16];
    if (qr_comm_available(num_ranks, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
    const ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len < 0) return qr_cli_fail("/proc/self/exe: %s", strerror(errno));
    program[len] = '\0';
    snprintf(size, sizeof size, "%d", num_ranks);
    char *const before[] = {"mpirun", "-n", size, "--bind-to", "none", program};
    enum { NUM_BEFORE = sizeof before / sizeof *before };
    size_t num_args = 0;
    while (argv[num_args]) num_args++;
    char **words = qr_calloc(NUM_BEFORE + num_args + 1, sizeof *words);
    if (!words) return qr_cli_fail("no memory for the command line");
    memcpy(words, before, sizeof before);
    memcpy(words + NUM_BEFORE, argv, num_args * sizeof *argv);
    const int status = run(words);
    qr_free(words);
    return status;
}
