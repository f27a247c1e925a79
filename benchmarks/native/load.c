/* The benchmark's load generator: one thread that sends requests to 127.0.0.1 and times what comes back.
 *
 *   load MODE PORT PATH [conns=N] [rate=N] [spread=N] [count=N] [bytes=N] [header=LINE]... [fresh=1] [method=M] [body=TEXT]
 *
 *   closed     each connection sends its next request when the last response is complete
 *   paced      `rate` requests a second over all connections, none sent before its time
 *   streams    `conns` streams whose events carry the time at which they were written
 *   chats      `conns` streams as those, each begun anew when it has ended; the first ones begin within `spread` milliseconds
 *   flood      `conns` streams, read and thrown away
 *   idle       `conns` streams that stay silent, but for keepalives
 *   download   `count` responses to their ends
 *   upload     `count` requests with a body of `bytes`
 *   abort      `count` times: connect, ask, take the first bytes of the body, close
 *
 * It prints "ready" once the load stands. An `m` on its standard input begins the measurement; for the last three modes it
 * also begins the load. An `e`, or the end of `count`, prints one JSON object and ends the program, as does the end of the
 * input. Times in the output are microseconds; "cpu" is the share of a core that the generator itself took.
 */
#include "common.h"
#include <sys/resource.h>
#include <sys/timerfd.h>

#define HEAD_MAX 16384
#define RAMP 64 /* connections that are being opened at once */
#define GIVE_UP 1000 /* errors */

enum mode { CLOSED, PACED, STREAMS, CHATS, FLOODED, IDLING, DOWNLOADS, UPLOADS, ABORTS };
static const char *MODES[] = {"closed", "paced", "streams", "chats", "flood", "idle", "download", "upload", "abort", NULL};

struct samples {
    uint32_t *values; /* ns / 10, so that 42 s fit */
    size_t size, room;
};

struct conn {
    int fd;
    enum { OFF, SENDING, IN_HEAD, IN_BODY, WAITING } state;
    int greeted; /* has had its first bytes of a body */
    uint64_t sent_at, event_at, payload, to_send;
    struct body body;
    char *head;
    size_t head_size;
    char carry[STAMP_DIGITS + 1];
    size_t carried;
};

static enum mode mode;
static struct sockaddr_in address;
static struct conn *conns;
static int poller, timer, conn_count = 1, opened, due, greeted, measuring, said_ready;
static char *number; /* in the request, where each has another */
static char request[65536], zeros[256 * 1024];
static size_t request_size;
static uint64_t rate, spread, wanted, upload_bytes, begun, finished;
static uint64_t responses, bytes, payload_bytes, events, reads, errors, lost, begun_at;
static struct rusage usage_before;
static struct samples first_byte, complete, delay, gap;
static struct conn **idle_conns;
static int idle_count;

static void record(struct samples *samples, uint64_t ns) {
    if (!measuring) return;
    if (samples->size == samples->room)
        samples->values = must(realloc(samples->values, sizeof(uint32_t) * (samples->room = samples->room * 2 + 4096)));
    samples->values[samples->size++] = (uint32_t)(ns / 10);
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, struct samples *samples) {
    qsort(samples->values, samples->size, sizeof(uint32_t), ascending);
    double sum = 0;
    for (size_t at = 0; at < samples->size; at++) sum += samples->values[at];
    size_t n = samples->size;
#define RANK(q) (n ? samples->values[(size_t)((double)(n - 1) * (q))] / 100.0 : 0.0)
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.2f,\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f}", name, n,
           n ? sum / (double)n / 100.0 : 0.0, RANK(0.5), RANK(0.99), RANK(0.999), RANK(1.0));
}

static double cpu_seconds(const struct rusage *usage) {
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

__attribute__((noreturn)) static void report(void) {
    double seconds = (double)(now_ns() - begun_at) / 1e9;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\":%.6f,\"responses\":%llu,\"bytes\":%llu,\"payload\":%llu,\"events\":%llu,\"reads\":%llu,"
           "\"errors\":%llu,\"lost\":%llu,\"cpu\":%.4f",
           seconds, (unsigned long long)responses, (unsigned long long)bytes, (unsigned long long)payload_bytes,
           (unsigned long long)events, (unsigned long long)reads, (unsigned long long)errors, (unsigned long long)lost,
           (cpu_seconds(&usage) - cpu_seconds(&usage_before)) / (seconds > 0 ? seconds : 1));
    print_samples("first_byte", &first_byte);
    print_samples("complete", &complete);
    print_samples("delay", &delay);
    print_samples("gap", &gap);
    printf("}\n");
    fflush(stdout);
    exit(0);
}

static void ready(void) {
    if (said_ready) return;
    said_ready = 1;
    printf("ready\n");
    fflush(stdout);
}

static void watch(struct conn *conn, int operation, int wants_write) {
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = conn};
    if (epoll_ctl(poller, operation, conn->fd, &event)) die("epoll_ctl");
}

static void open_connection(struct conn *conn) {
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    no_delay(conn->fd);
    fcntl(conn->fd, F_SETFL, O_NONBLOCK); /* connecting on loopback does not wait, so it may block */
    conn->state = WAITING;
    watch(conn, EPOLL_CTL_ADD, 0);
}

static void close_connection(struct conn *conn) {
    close(conn->fd);
    free(conn->head);
    conn->head = NULL;
    conn->head_size = conn->carried = 0;
    conn->state = OFF;
}

static void fail(struct conn *conn, const char *why) {
    if (!errors++) fprintf(stderr, "load: %s\n", why);
    if (errors > GIVE_UP) {
        fprintf(stderr, "load: too many errors\n");
        exit(1);
    }
    close_connection(conn);
}

static void send_request(struct conn *conn) {
    conn->head_size = 0;
    conn->payload = 0;
    conn->to_send = upload_bytes;
    conn->state = IN_HEAD;
    conn->sent_at = now_ns();
    conn->event_at = 0;
    begun++;
    if (number) {
        char digits[9];
        snprintf(digits, sizeof digits, "%08x", (uint32_t)begun);
        memcpy(number, digits, 8);
    }
    if (send(conn->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) {
        fail(conn, "a request could not be sent");
        return;
    }
    if (conn->to_send) {
        conn->state = SENDING;
        watch(conn, EPOLL_CTL_MOD, 1);
    }
}

static void push_upload(struct conn *conn) {
    for (int turn = 0; turn < 4 && conn->to_send; turn++) {
        size_t piece = conn->to_send < sizeof zeros ? (size_t)conn->to_send : sizeof zeros;
        ssize_t sent = send(conn->fd, zeros, piece, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) fail(conn, "an upload was cut");
            return;
        }
        conn->to_send -= (uint64_t)sent;
        if (measuring) bytes += (uint64_t)sent;
    }
    if (conn->to_send) return;
    conn->state = IN_HEAD;
    watch(conn, EPOLL_CTL_MOD, 0);
}

static void next_request(struct conn *conn) {
    if (mode == PACED) {
        idle_conns[idle_count++] = conn;
        return;
    }
    if (mode >= DOWNLOADS && measuring && begun >= wanted) return;
    if (conn->state == OFF) open_connection(conn);
    if (mode < DOWNLOADS || measuring) send_request(conn);
}

/* Open what the ramp allows. */
static void open_more(void) {
    while (opened < conn_count && (mode >= DOWNLOADS || (spread ? opened < due : opened - greeted < RAMP))) {
        struct conn *conn = &conns[opened++];
        if (mode == ABORTS) continue; /* opens its connections as it goes */
        open_connection(conn);
        next_request(conn);
        if (mode == PACED) greeted++;
    }
    if (mode >= DOWNLOADS ? opened == conn_count : greeted == conn_count) ready();
}

static void first_bytes(struct conn *conn) {
    record(&first_byte, now_ns() - conn->sent_at);
    if (conn->greeted) return;
    conn->greeted = 1;
    if (mode != PACED) greeted++;
    if (!said_ready) open_more();
}

/* Find the stamps in what came, chunk framing and all: no framing has an at sign. */
static void find_stamps(struct conn *conn, const char *data, size_t size) {
    uint64_t now = now_ns();
    for (size_t at = 0; at < size;) {
        if (!conn->carried) {
            const char *mark = memchr(data + at, '@', size - at);
            if (!mark) return;
            at = (size_t)(mark - data);
        }
        size_t piece = sizeof conn->carry - conn->carried;
        if (piece > size - at) piece = size - at;
        memcpy(conn->carry + conn->carried, data + at, piece);
        at += piece;
        if ((conn->carried += piece) < sizeof conn->carry) return;
        conn->carried = 0;
        uint64_t stamp = 0;
        for (int digit = 1; digit <= STAMP_DIGITS; digit++) stamp = stamp * 10 + (uint64_t)(conn->carry[digit] - '0');
        if (measuring) events++;
        if (stamp <= now) record(&delay, now - stamp);
        if (conn->event_at) record(&gap, now - conn->event_at);
        conn->event_at = now;
    }
}

static void response_complete(struct conn *conn) {
    record(&complete, now_ns() - conn->sent_at);
    if (measuring) responses++;
    finished++;
    if (conn->state != OFF) conn->state = WAITING;
    if (mode >= DOWNLOADS && finished + errors >= wanted) report();
    next_request(conn);
}

static void aborted(struct conn *conn) {
    close_connection(conn);
    responses++;
    if (++finished + errors >= wanted) report();
    next_request(conn);
}

static void take_body(struct conn *conn, const char *data, size_t size) {
    if (!size) return;
    uint64_t before = conn->payload;
    body_take(&conn->body, data, size, &conn->payload);
    if (measuring) payload_bytes += conn->payload - before;
    if (!before && conn->payload) first_bytes(conn);
    if (mode == STREAMS || mode == CHATS) find_stamps(conn, data, size);
    if (mode == ABORTS && conn->payload) aborted(conn);
    else if (conn->body.state == COMPLETE) {
        if (mode == STREAMS || mode == FLOODED || mode == IDLING) {
            lost++;
            close_connection(conn);
        } else response_complete(conn);
    }
}

static void take_head(struct conn *conn, const char *data, size_t size) {
    if (!conn->head) conn->head = must(malloc(HEAD_MAX + 1));
    size_t before = conn->head_size, room = HEAD_MAX - before, piece = size < room ? size : room;
    memcpy(conn->head + before, data, piece);
    conn->head[conn->head_size += piece] = '\0';
    char *end = strstr(conn->head, "\r\n\r\n");
    if (!end) {
        if (conn->head_size == HEAD_MAX) fail(conn, "a response head has no end");
        return;
    }
    size_t head_end = (size_t)(end + 4 - conn->head);
    end[2] = '\0';
    if (strncmp(conn->head, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "load: %.300s\n", conn->head);
        fail(conn, "a response was not 200");
        return;
    }
    body_begin(&conn->body, conn->head, 0);
    conn->state = IN_BODY;
    if (conn_count > 64) { /* thousands of heads are not kept */
        free(conn->head);
        conn->head = NULL;
    }
    take_body(conn, data + (head_end - before), size - (head_end - before));
}

static void gone(struct conn *conn) {
    if (conn->state == IN_BODY && conn->body.state == UNTIL_CLOSE && mode != STREAMS && mode != IDLING) {
        close_connection(conn);
        response_complete(conn);
        return;
    }
    if (mode == STREAMS || mode == FLOODED || mode == IDLING) {
        lost++;
        close_connection(conn);
        return;
    }
    int busy = conn->state != WAITING;
    close_connection(conn);
    if (!busy) return; /* reopened for its next request */
    if (++errors > GIVE_UP) exit(1);
    if (mode >= DOWNLOADS && finished + errors >= wanted) report();
    next_request(conn);
}

static void readable(struct conn *conn) {
    static char data[512 * 1024];
    /* Nothing looks into a flood or a download: the kernel may throw it away, which keeps the generator cheap. */
    int discard = conn->state == IN_BODY && (mode == FLOODED || (mode == DOWNLOADS && conn->body.state == SIZED));
    ssize_t got = recv(conn->fd, data, sizeof data, discard ? MSG_TRUNC : 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) gone(conn);
        return;
    }
    if (measuring && mode != UPLOADS) bytes += (uint64_t)got;
    if (measuring) reads++;
    if (discard && mode == FLOODED) {
        if (!conn->payload) first_bytes(conn);
        conn->payload += (uint64_t)got;
        return;
    }
    if (conn->state == IN_HEAD || conn->state == SENDING) take_head(conn, data, (size_t)got);
    else if (conn->state == IN_BODY) take_body(conn, data, (size_t)got);
}

static void paced_tick(void) {
    uint64_t expirations = 0;
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    if (spread) {
        due += (int)expirations;
        open_more();
        if (opened == conn_count) timerfd_settime(timer, 0, &(struct itimerspec){0}, NULL);
        return;
    }
    if (!idle_count) return; /* all are busy: a request that is due is left out, not sent late */
    struct conn *conn = idle_conns[--idle_count];
    if (conn->state == OFF) open_connection(conn);
    send_request(conn);
}

static void command(void) {
    char byte;
    if (read(0, &byte, 1) <= 0) exit(0);
    if (byte == 'e') report();
    if (byte != 'm') return;
    responses = bytes = payload_bytes = events = reads = 0;
    first_byte.size = complete.size = delay.size = gap.size = 0;
    getrusage(RUSAGE_SELF, &usage_before);
    begun_at = now_ns();
    measuring = 1;
    begun = 0;
    if (mode >= DOWNLOADS)
        for (int at = 0; at < conn_count; at++) next_request(&conns[at]);
}

static void make_request(const char *path, int argc, char **argv) {
    const char *method = "GET", *body = "";
    char headers[4096] = "";
    int fresh = 0;
    for (int at = 4; at < argc; at++) {
        if (!strncmp(argv[at], "conns=", 6)) conn_count = atoi(argv[at] + 6);
        else if (!strncmp(argv[at], "rate=", 5)) rate = strtoull(argv[at] + 5, NULL, 10);
        else if (!strncmp(argv[at], "spread=", 7)) spread = strtoull(argv[at] + 7, NULL, 10);
        else if (!strncmp(argv[at], "count=", 6)) wanted = strtoull(argv[at] + 6, NULL, 10);
        else if (!strncmp(argv[at], "bytes=", 6)) upload_bytes = strtoull(argv[at] + 6, NULL, 10);
        else if (!strncmp(argv[at], "method=", 7)) method = argv[at] + 7;
        else if (!strncmp(argv[at], "body=", 5)) body = argv[at] + 5;
        else if (!strncmp(argv[at], "fresh=", 6)) fresh = atoi(argv[at] + 6);
        else if (!strncmp(argv[at], "header=", 7)) {
            strncat(headers, argv[at] + 7, sizeof headers - strlen(headers) - 3);
            strcat(headers, "\r\n");
        } else {
            fprintf(stderr, "load: unknown argument %s\n", argv[at]);
            exit(2);
        }
    }
    if (fresh) strcat(headers, "X-Number: 00000000\r\n");
    char length[64] = "";
    if (upload_bytes || *body)
        snprintf(length, sizeof length, "Content-Length: %llu\r\n",
                 (unsigned long long)(upload_bytes ? upload_bytes : strlen(body)));
    request_size = (size_t)snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                                    "User-Agent: bench\r\n%s%s\r\n%s", method, path, ntohs(address.sin_port), headers,
                                    length, body);
    if (request_size >= sizeof request) die("the request is too long");
    if (fresh) number = strstr(request, "X-Number: ") + strlen("X-Number: ");
}

int main(int argc, char **argv) {
    while (argc > 3 && MODES[mode] && strcmp(MODES[mode], argv[1])) mode++;
    if (argc < 4 || !MODES[mode]) {
        fprintf(stderr, "usage: load MODE PORT PATH [name=value]...\n");
        return 2;
    }
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    make_request(argv[3], argc, argv);
    conns = must(calloc((size_t)conn_count, sizeof *conns));
    idle_conns = must(calloc((size_t)conn_count, sizeof(struct conn *)));
    poller = epoll_create1(EPOLL_CLOEXEC);
    static char input_mark, timer_mark;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &input_mark};
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    if (mode == PACED || spread) {
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        long gap = spread ? (long)(spread * 1000000 / (uint64_t)conn_count) : 1000000000l / (long)(rate ? rate : 1);
        struct timespec every = {.tv_sec = gap / 1000000000l, .tv_nsec = gap % 1000000000l};
        struct itimerspec spec = {.it_interval = every, .it_value = every};
        timerfd_settime(timer, 0, &spec, NULL);
        event.data.ptr = &timer_mark;
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    }
    open_more();
    for (;;) {
        struct epoll_event events_seen[256];
        int count = epoll_wait(poller, events_seen, 256, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait");
        for (int at = 0; at < count; at++) {
            struct conn *conn = events_seen[at].data.ptr;
            if ((void *)conn == &input_mark) command();
            else if ((void *)conn == &timer_mark) paced_tick();
            else if (conn->state == SENDING && events_seen[at].events & EPOLLOUT) push_upload(conn);
            else if (conn->state != OFF) readable(conn);
        }
    }
}
