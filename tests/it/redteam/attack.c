/* What a hostile command can ask of the kernel and bash cannot: one attempt a call.
 * It ends with 0: it worked; 10: refused; 20: this kernel has no such thing; 30: it could not
 * be tried. `victim FOLDER` is another program of the same user, to be attacked. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifndef SYS_utime /* Newer machines do without. */
#define SYS_utime -1
#define SYS_utimes -1
#define SYS_futimesat -1
#endif

enum { WORKED = 0, REFUSED = 10, ABSENT = 20, UNTRIED = 30 };
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif

static int told(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    switch (errno) {
    case EPERM: case EACCES: case ESRCH: return REFUSED;
    case ENOSYS: case EAFNOSUPPORT: case EPROTONOSUPPORT: case ESOCKTNOSUPPORT:
    case EOPNOTSUPP: return ABSENT;
    default: return UNTRIED;
    }
}
static int came(long result, const char *what) { return result >= 0 ? WORKED : told(what); }

/* Calls by their names; where this machine lacks one, so does the table. */
static const struct { const char *name; long number; } CALLS[] = {
    {"add_key", SYS_add_key},
    {"bpf", SYS_bpf},
    {"chroot", SYS_chroot},
    {"clone", SYS_clone},
    {"clone3", SYS_clone3},
    {"fanotify_init", SYS_fanotify_init},
    {"fchownat", SYS_fchownat},
    {"fsopen", SYS_fsopen},
    {"futimesat", SYS_futimesat},
    {"inotify_add_watch", SYS_inotify_add_watch},
    {"io_uring_setup", SYS_io_uring_setup},
    {"ioctl", SYS_ioctl},
    {"kcmp", SYS_kcmp},
    {"keyctl", SYS_keyctl},
    {"move_mount", SYS_move_mount},
    {"open_tree", SYS_open_tree},
    {"perf_event_open", SYS_perf_event_open},
    {"pivot_root", SYS_pivot_root},
    {"setns", SYS_setns},
    {"setxattr", SYS_setxattr},
    {"umount2", SYS_umount2},
    {"userfaultfd", SYS_userfaultfd},
    {"utime", SYS_utime},
    {"utimes", SYS_utimes},
};
static long number_of(const char *name) {
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (!strcmp(CALLS[i].name, name)) return CALLS[i].number;
    return strtol(name, 0, 0);
}

/* A plain number; @TEXT, a pointer to it; %N, a pointer to N zero bytes. */
static long argument(const char *text) {
    if (*text == '@') return (long)(text + 1);
    if (*text == '%') return (long)calloc(1, strtoul(text + 1, 0, 0));
    return (long)strtoull(text, 0, 0);
}
static struct sockaddr_in here(const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return to;
}
/* A name that begins with @ is an abstract one. */
static socklen_t named(struct sockaddr_un *to, const char *name) {
    *to = (struct sockaddr_un){.sun_family = AF_UNIX};
    strncpy(to->sun_path, name, sizeof to->sun_path - 1);
    if (*name == '@') to->sun_path[0] = 0;
    return offsetof(struct sockaddr_un, sun_path) + strlen(name) + (*name != '@');
}
static void note(const char *folder, const char *name, unsigned long long value) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    fprintf(file, "%llu\n", value);
    fclose(file);
}

static char memory[] = "the secret in the memory of another program";

static int victim(const char *folder) {
    char path[512];
    struct sockaddr_un to;
    socklen_t size;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    int stream = socket(AF_UNIX, SOCK_STREAM, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
    int abstract = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(path, sizeof path, "%s/stream", folder);
    size = named(&to, path);
    bind(stream, (void *)&to, size), listen(stream, 99);
    snprintf(path, sizeof path, "%s/datagram", folder);
    size = named(&to, path);
    bind(datagram, (void *)&to, size);
    snprintf(path, sizeof path, "@%s", folder);
    size = named(&to, path);
    bind(abstract, (void *)&to, size), listen(abstract, 99);
    struct sockaddr_in at = here("0");
    socklen_t length = sizeof at;
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), queue = 9;
    bind(tcp, (void *)&at, sizeof at);
    setsockopt(tcp, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof queue);
    listen(tcp, 99);
    getsockname(tcp, (void *)&at, &length);
    note(folder, "tcp", ntohs(at.sin_port));
    at = here("0");
    bind(udp, (void *)&at, sizeof at);
    getsockname(udp, (void *)&at, &length);
    note(folder, "udp", ntohs(at.sin_port));
    int shared = shmget(IPC_PRIVATE, 4096, 0600);
    if (shared >= 0) {
        strcpy(shmat(shared, 0, 0), memory);
        shmctl(shared, IPC_RMID, 0); /* Gone with this process; it stays to be attached to. */
    }
    note(folder, "shared", shared);
    note(folder, "address", (uintptr_t)memory);
    note(folder, "descriptor", tcp);
    note(folder, "pid", getpid());
    while (pause()) continue;
    return UNTRIED;
}

static int tcp(char **to, int protocol, const char *fast) {
    int stream = socket(AF_INET, SOCK_STREAM, protocol), on = 1;
    struct sockaddr_in at = here(to[2]);
    struct iovec piece = {"x", 1};
    struct msghdr message = {&at, sizeof at, &piece, 1, 0, 0, 0};
    struct mmsghdr several = {message, 0};
    if (stream < 0) return told("socket");
    if (!strcmp(fast, "sendto"))
        return came(sendto(stream, "x", 1, MSG_FASTOPEN, (void *)&at, sizeof at), fast);
    if (!strcmp(fast, "sendmsg")) return came(sendmsg(stream, &message, MSG_FASTOPEN), fast);
    if (!strcmp(fast, "sendmmsg"))
        return came(sendmmsg(stream, &several, 1, MSG_FASTOPEN), fast);
    if (!strcmp(fast, "option") && setsockopt(stream, IPPROTO_TCP, 30, &on, sizeof on)) {
        return told("TCP_FASTOPEN_CONNECT");
    }
    return came(connect(stream, (void *)&at, sizeof at), "connect");
}

static int handle(const char *folder, const char *file) {
    struct { struct file_handle handle; char room[128]; } found;
    int mount, root = open("/", O_RDONLY | O_DIRECTORY), opened;
    found.handle.handle_bytes = 128;
    if (name_to_handle_at(AT_FDCWD, file, &found.handle, &mount, 0)) return told("name_to_handle");
    root = open(folder, O_RDONLY | O_DIRECTORY);
    opened = syscall(SYS_open_by_handle_at, root, &found.handle, O_RDONLY);
    return came(opened, "open_by_handle_at");
}

/* The same call by numbers of another kind. */
static int other_numbers(const char *kind) {
#ifdef __x86_64__
    if (!strcmp(kind, "x32")) return came(syscall(0x40000000 | SYS_getpid), "getpid of x32");
    pid_t child = fork();
    if (!child) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "0"(20) : "memory");
        _exit(result > 0 ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) return WEXITSTATUS(status) ? REFUSED : WORKED;
    return WTERMSIG(status) == SIGSYS ? REFUSED : ABSENT;
#else
    return kind ? ABSENT : UNTRIED;
#endif
}

static int traced(pid_t pid) {
    int status;
    if (ptrace(PTRACE_ATTACH, pid, 0, 0)) return told("ptrace");
    waitpid(pid, &status, __WALL);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    return WORKED;
}

int main(int count, char **is) {
    const char *what = count > 1 ? is[1] : "";
    struct sockaddr_un to;
    socklen_t size;
    if (!strcmp(what, "victim")) return victim(is[2]);
    if (!strcmp(what, "call") || !strcmp(what, "reach")) {
        long a[7] = {0};
        a[0] = number_of(is[2]);
        for (int i = 3; i < count && i < 9; i++) a[i - 2] = argument(is[i]);
        long result = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        /* That the kernel looks at the arguments is enough. */
        int taken = errno != EPERM && errno != EACCES && errno != ENOSYS && errno != ENODEV;
        return result < 0 && *what == 'r' && taken ? WORKED : came(result, is[2]);
    }
    if (!strcmp(what, "ioctl")) {
        char byte = 0;
        int answer = ioctl(0, strtoul(is[2], 0, 0), &byte);
        return answer < 0 && (errno == ENOTTY || errno == EINVAL) ? WORKED : came(answer, what);
    }
    if (!strcmp(what, "socket"))
        return came(socket(atoi(is[2]), atoi(is[3]), atoi(is[4])), what);
    if (!strcmp(what, "pair")) {
        int pair[2];
        if (socketpair(AF_UNIX, atoi(is[2]), 0, pair)) return told(what);
        size = named(&to, is[3]);
        return came(sendto(pair[0], "x", 1, 0, (void *)&to, size), "sendto");
    }
    if (!strcmp(what, "unix")) {
        int stream = socket(AF_UNIX, SOCK_STREAM, 0);
        if (stream < 0) return told("socket");
        size = named(&to, is[2]);
        return came(connect(stream, (void *)&to, size), "connect");
    }
    if (!strcmp(what, "say")) {
        static char answer[1 << 16];
        int stream = socket(AF_UNIX, SOCK_STREAM, 0);
        size = named(&to, is[2]);
        if (connect(stream, (void *)&to, size)) return told("connect");
        dprintf(stream, "%s\n", is[3]);
        return came(write(1, answer, read(stream, answer, sizeof answer)), what);
    }
    if (!strcmp(what, "tcp")) return tcp(is, 0, count > 3 ? is[3] : "");
    if (!strcmp(what, "mptcp")) return tcp(is, 262, "");
    if (!strcmp(what, "udp")) {
        int datagram = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in at = here(is[2]);
        if (datagram < 0) return told("socket");
        return came(sendto(datagram, "x", 1, 0, (void *)&at, sizeof at), "sendto");
    }
    if (!strcmp(what, "offer")) {
        int stream = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in at = here("0");
        if (stream < 0) return told("socket");
        if (atoi(is[2]) && bind(stream, (void *)&at, sizeof at)) return told("bind");
        return came(listen(stream, 1), "listen");
    }
    if (!strcmp(what, "option")) {
        int stream = socket(AF_INET, SOCK_STREAM, 0);
        int answer = setsockopt(stream, IPPROTO_TCP, atoi(is[2]), is[3], strlen(is[3]));
        return answer && errno == ENOENT ? WORKED : came(answer, "setsockopt");
    }
    if (!strcmp(what, "handle")) return handle(is[2], is[3]);
    if (!strcmp(what, "numbers")) return other_numbers(is[2]);
    if (!strcmp(what, "ptrace")) return traced(atoi(is[2]));
    if (!strcmp(what, "memory")) {
        char buffer[sizeof memory];
        struct iovec own = {buffer, sizeof buffer};
        struct iovec theirs = {(void *)strtoull(is[3], 0, 0), sizeof buffer};
        return came(process_vm_readv(atoi(is[2]), &own, 1, &theirs, 1, 0), what);
    }
    if (!strcmp(what, "descriptor")) {
        int pidfd = syscall(SYS_pidfd_open, atoi(is[2]), 0);
        if (pidfd < 0) return told("pidfd_open");
        return came(syscall(SYS_pidfd_getfd, pidfd, atoi(is[3]), 0), "pidfd_getfd");
    }
    if (!strcmp(what, "signal")) {
        int pid = atoi(is[2]), pidfd = syscall(SYS_pidfd_open, pid, 0);
        siginfo_t info = {.si_code = SI_QUEUE};
        if (!strcmp(is[3], "kill")) return came(kill(pid, 0), what);
        if (!strcmp(is[3], "thread")) return came(syscall(SYS_tgkill, pid, pid, 0), what);
        if (!strcmp(is[3], "queue")) return came(syscall(SYS_rt_sigqueueinfo, pid, 0, &info), what);
        return came(syscall(SYS_pidfd_send_signal, pidfd, 0, 0, 0), what);
    }
    if (!strcmp(what, "limit")) {
        struct rlimit limit;
        if (prlimit(atoi(is[2]), RLIMIT_MSGQUEUE, 0, &limit)) return told(what);
        return came(prlimit(atoi(is[2]), RLIMIT_MSGQUEUE, &limit, 0), what);
    }
    /* Made, and removed at once. */
    if (!strcmp(what, "make")) {
        if (!strcmp(is[2], "memory")) {
            int made = shmget(IPC_PRIVATE, 4096, 0600);
            return made < 0 ? told(what) : came(shmctl(made, IPC_RMID, 0), what);
        }
        if (!strcmp(is[2], "semaphores")) {
            int made = semget(IPC_PRIVATE, 1, 0600);
            return made < 0 ? told(what) : came(semctl(made, 0, IPC_RMID), what);
        }
        if (!strcmp(is[2], "queue")) {
            int made = msgget(IPC_PRIVATE, 0600);
            return made < 0 ? told(what) : came(msgctl(made, IPC_RMID, 0), what);
        }
        char name[64];
        /* Refused it stays there: always the same, and the control removes it. */
        snprintf(name, sizeof name, "fledgling-%d", getuid());
        int made = syscall(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, 0);
        return made < 0 ? told(what) : came(syscall(SYS_mq_unlink, name), what);
    }
    if (!strcmp(what, "shared")) {
        char *at = shmat(atoi(is[2]), 0, SHM_RDONLY);
        return at == (void *)-1 ? told(what) : strcmp(at, memory) ? UNTRIED : WORKED;
    }
    if (!strcmp(what, "empty"))
        return came(open(is[2], O_RDONLY | O_TRUNC), what);
    return UNTRIED;
}
