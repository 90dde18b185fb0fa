// A floor program: a TCP relay on io_uring with nothing but the bytes' way. It balances nothing, times nothing out and checks
// little; it is here to be measured against `balance` (see docs/performance.md), not to be run.
//
//   cc -O2 bench/floor/uring.c -luring -lpthread -o bench/out/uring      (Debian: liburing-dev)
//   bench/compare --balance bench/out/uring --row requests --row latency --row connections
//
// A ring per worker: multishot accept, connect, multishot receive into a ring of buffers, one send per buffer. Takes the
// command line that bench/compare uses: -f -b ADDR --workers N PORT HOST:PORT.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFERS = 1024, SIZE = 16 * 1024, CONNECTIONS = 10000, ENTRIES = 4096 };
enum op { ACCEPT, CONNECT, RECEIVE, SEND };

struct connection {
    int fd[2];
    int sending[2]; // sends under way to that side
    int ended[2];   // no more comes from that side
    int shut[2];    // that side was told the end
    int dead, ops;  // operations under way
};

struct worker {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    char *memory;
    struct connection *all;
    int *unused, count;
    int listener;
};

static struct sockaddr_in channel;

static uint64_t tag(enum op op, int index, int side, int buffer) {
    return (uint64_t)op << 56 | (uint64_t)index << 24 | (uint64_t)side << 20 | (uint64_t)buffer;
}

static struct io_uring_sqe *entry(struct worker *w) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);
    if (!sqe) {
        io_uring_submit(&w->ring);
        sqe = io_uring_get_sqe(&w->ring);
    }
    return sqe;
}

static void receive(struct worker *w, int index, int side) {
    struct io_uring_sqe *sqe = entry(w);
    io_uring_prep_recv_multishot(sqe, w->all[index].fd[side], NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
    io_uring_sqe_set_data64(sqe, tag(RECEIVE, index, side, 0));
    w->all[index].ops++;
}

static void give_back(struct worker *w, int buffer) {
    io_uring_buf_ring_add(w->buffers, w->memory + (size_t)buffer * SIZE, SIZE, buffer, BUFFERS - 1, 0);
    io_uring_buf_ring_advance(w->buffers, 1);
}

static void settle(struct worker *w, int index) {
    struct connection *c = &w->all[index];
    for (int side = 0; side < 2; side++)
        if (c->ended[!side] && !c->sending[side] && !c->shut[side]) {
            c->shut[side] = 1;
            if (c->fd[side] >= 0) shutdown(c->fd[side], SHUT_WR);
        }
    if (c->dead)
        for (int side = 0; side < 2; side++)
            if (c->fd[side] >= 0) shutdown(c->fd[side], SHUT_RDWR);
    if (c->ops == 0 && (c->dead || (c->ended[0] && c->ended[1]))) {
        for (int side = 0; side < 2; side++)
            if (c->fd[side] >= 0) close(c->fd[side]);
        w->unused[w->count++] = index;
    }
}

static void accepted(struct worker *w, int fd) {
    if (w->count == 0) {
        close(fd);
        return;
    }
    int index = w->unused[--w->count], one = 1;
    struct connection *c = &w->all[index];
    memset(c, 0, sizeof *c);
    c->fd[0] = fd;
    c->fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct io_uring_sqe *sqe = entry(w);
    io_uring_prep_connect(sqe, c->fd[1], (struct sockaddr *)&channel, sizeof channel);
    io_uring_sqe_set_data64(sqe, tag(CONNECT, index, 1, 0));
    c->ops++;
}

static void complete(struct worker *w, struct io_uring_cqe *cqe) {
    uint64_t data = io_uring_cqe_get_data64(cqe);
    int index = data >> 24 & 0xffffff, side = data >> 20 & 1, result = cqe->res;
    struct connection *c = &w->all[index];
    switch ((enum op)(data >> 56)) {
    case ACCEPT:
        if (result >= 0) accepted(w, result);
        if (!(cqe->flags & IORING_CQE_F_MORE)) {
            struct io_uring_sqe *sqe = entry(w);
            io_uring_prep_multishot_accept(sqe, w->listener, NULL, NULL, SOCK_CLOEXEC);
            io_uring_sqe_set_data64(sqe, tag(ACCEPT, 0, 0, 0));
        }
        return;
    case CONNECT:
        c->ops--;
        if (result < 0) {
            c->dead = 1;
        } else {
            receive(w, index, 0);
            receive(w, index, 1);
        }
        break;
    case RECEIVE: {
        int more = cqe->flags & IORING_CQE_F_MORE;
        if (!more) c->ops--;
        if (result > 0) {
            int buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
            struct io_uring_sqe *sqe = entry(w);
            io_uring_prep_send(sqe, c->fd[!side], w->memory + (size_t)buffer * SIZE, result, MSG_WAITALL);
            io_uring_sqe_set_data64(sqe, tag(SEND, index, !side, buffer));
            c->ops++;
            c->sending[!side]++;
            if (!more) receive(w, index, side);
        } else if (result == -ENOBUFS) {
            receive(w, index, side);
        } else if (!more) {
            c->ended[side] = 1;
            if (result < 0) c->dead = 1;
        }
        break;
    }
    case SEND:
        c->ops--;
        c->sending[side]--;
        give_back(w, data & 0xfffff);
        if (result < 0) c->dead = 1;
        break;
    }
    settle(w, index);
}

static void *serve(void *listener) {
    struct worker *w = calloc(1, sizeof *w);
    struct sched_param none = {0};
    struct io_uring_params params = {0};
    sched_setscheduler(0, SCHED_BATCH, &none);
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    params.cq_entries = 4 * ENTRIES;
    int failed = io_uring_queue_init_params(ENTRIES, &w->ring, &params);
    if (failed) {
        fprintf(stderr, "io_uring: %s\n", strerror(-failed));
        exit(71);
    }
    io_uring_register_ring_fd(&w->ring);
    struct io_uring_buf_reg group = {.ring_entries = BUFFERS, .bgid = 0};
    if (posix_memalign((void **)&w->buffers, 4096, BUFFERS * sizeof(struct io_uring_buf))) exit(71);
    group.ring_addr = (uint64_t)(uintptr_t)w->buffers;
    if (io_uring_register_buf_ring(&w->ring, &group, 0)) exit(71);
    io_uring_buf_ring_init(w->buffers);
    w->memory = malloc((size_t)BUFFERS * SIZE);
    for (int i = 0; i < BUFFERS; i++) give_back(w, i);
    w->all = calloc(CONNECTIONS, sizeof *w->all);
    w->unused = malloc(CONNECTIONS * sizeof *w->unused);
    for (int i = 0; i < CONNECTIONS; i++) w->unused[w->count++] = CONNECTIONS - 1 - i;
    w->listener = *(int *)listener;
    struct io_uring_sqe *sqe = entry(w);
    io_uring_prep_multishot_accept(sqe, w->listener, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data64(sqe, tag(ACCEPT, 0, 0, 0));
    for (;;) {
        io_uring_submit_and_wait(&w->ring, 1);
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&w->ring, head, cqe) {
            complete(w, cqe);
            seen++;
        }
        io_uring_cq_advance(&w->ring, seen);
    }
}

int main(int argc, char **argv) {
    int workers = 2, one = 1;
    if (argc == 2) { // --version
        puts("floor 0");
        return 0;
    }
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--workers")) workers = atoi(argv[i + 1]);
    if (argc < 3) return 64;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 2]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    channel = here;
    channel.sin_port = htons(atoi(strrchr(argv[argc - 1], ':') + 1));
    // A listener each: io_uring has no way to wake one of several.
    for (int i = 0; i < workers; i++) {
        int *fd = malloc(sizeof *fd);
        *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(*fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (bind(*fd, (struct sockaddr *)&here, sizeof here) || listen(*fd, 65535)) {
            perror("listen");
            return 71;
        }
        pthread_t thread;
        pthread_create(&thread, NULL, serve, fd);
    }
    pause();
}
