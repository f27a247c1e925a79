/* The benchmark's upstream: an HTTP/1.1 server with one thread, which answers by the first part of the path.
 *
 *   /tiny                 one event, chunked, in one write; the connection stays
 *   /fresh                the same with another head each time
 *   /json                 a small JSON object with its length
 *   /events?rate=N        N events a second, each stamped with the time at which it is written
 *   /chat                 a chat completion: 64 stamped events, one every 20 ms, then the finish, the usage and [DONE]
 *   /flood                events of 1 KiB, as fast as the socket takes them
 *   /idle?keepalive=S     one event and then silence; with S, a comment every S seconds
 *   /download?bytes=N     N bytes with their length
 *   /upload               reads a body and says how long it was
 *   /stats                open streams, and events that were late or could not be written
 *
 * A GET or POST body is read to its end before the answer, whatever the path. An event that the socket does not take is
 * dropped and counted: the upstream never queues, so that its stamps are true. It ends when its standard input does.
 */
#include "common.h"
#include <sys/timerfd.h>

#define HEAD_MAX 8192
#define EVENT_SIZE 224 /* bytes of one event, about what a chunk of a chat completion has */
#define FLOOD_EVENT 1024
#define FLOOD_BUFFER (FLOOD_EVENT * 64)
#define LATE_NS 2000000ull
#define CHAT_EVENTS 64
#define CHAT_PERIOD_NS 20000000ull

enum kind { READING, ANSWERING, EVENTS, CHAT, FLOOD, IDLE, DOWNLOAD };

struct conn {
    int fd;
    enum kind kind;
    struct body body;
    uint64_t uploaded;
    char *head; /* of the request, until it was answered */
    size_t head_size, head_end;
    uint64_t period, due; /* ns */
    int place;            /* in the heap, or -1 */
    uint64_t left;        /* bytes of a download, or events of a chat */
    size_t offset;        /* in the repeated buffer */
    int wants_write;
};

static int poller, timer, listener;
static uint64_t open_streams, dropped, late;
static struct conn **heap;
static int heap_size, heap_room;
static char flood_frames[FLOOD_BUFFER * 2], zeros[256 * 1024], event_frame[EVENT_SIZE + 16];
static size_t flood_size, event_size, event_stamp;
static char chat_end[1024];

static const char *STREAM_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n";

/* The timers of streams: a heap, with one timerfd for its head. */

static void heap_put(int at, struct conn *conn) {
    heap[at] = conn;
    conn->place = at;
}

static void sift_up(int at) {
    struct conn *conn = heap[at];
    for (; at > 0 && heap[(at - 1) / 2]->due > conn->due; at = (at - 1) / 2) heap_put(at, heap[(at - 1) / 2]);
    heap_put(at, conn);
}

static void sift_down(int at) {
    struct conn *conn = heap[at];
    for (int child; (child = 2 * at + 1) < heap_size; at = child) {
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= conn->due) break;
        heap_put(at, heap[child]);
    }
    heap_put(at, conn);
}

static void schedule(struct conn *conn, uint64_t period) {
    /* Golden-ratio phases: streams that begin together don't tick together, as those of strangers don't. */
    static double phase;
    phase += 0.6180339887;
    if (phase >= 1) phase -= 1;
    conn->period = period;
    conn->due = now_ns() + (uint64_t)(phase * (double)period);
    if (heap_size == heap_room) heap = must(realloc(heap, sizeof *heap * (size_t)(heap_room = heap_room * 2 + 64)));
    heap_put(heap_size++, conn);
    sift_up(conn->place);
}

static void unschedule(struct conn *conn) {
    int at = conn->place;
    if (at < 0) return;
    conn->place = -1;
    struct conn *last = heap[--heap_size];
    if (last == conn) return;
    heap_put(at, last);
    sift_up(at);
    sift_down(last->place);
}

static void arm(void) {
    static uint64_t armed;
    uint64_t due = heap_size ? heap[0]->due : 0;
    if (due == armed) return;
    armed = due;
    struct itimerspec spec = {.it_value = {(time_t)(due / 1000000000ull), (long)(due % 1000000000ull)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Connections. */

static void watch(struct conn *conn, int wants_write) {
    if (conn->wants_write == wants_write) return;
    conn->wants_write = wants_write;
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = conn};
    epoll_ctl(poller, EPOLL_CTL_MOD, conn->fd, &event);
}

static void drop(struct conn *conn) {
    if (conn->kind >= EVENTS) open_streams--;
    unschedule(conn);
    close(conn->fd);
    free(conn->head);
    free(conn);
}

static void accept_all(void) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        no_delay(fd);
        struct conn *conn = must(calloc(1, sizeof *conn));
        conn->fd = fd;
        conn->place = -1;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

/* Small answers fit into an empty socket buffer; 0 when this one did not. */
static int put(struct conn *conn, const char *data, size_t size) {
    return send(conn->fd, data, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static void put_stamp(char *at, uint64_t value) {
    for (int digit = STAMP_DIGITS - 1; digit >= 0; digit--, value /= 10) at[digit] = (char)('0' + value % 10);
}

/* 0 when the connection is gone. */
static int put_event(struct conn *conn, const char *prefix, const char *suffix) {
    char out[1024];
    size_t before = strlen(prefix), after = strlen(suffix);
    memcpy(out, prefix, before);
    memcpy(out + before, event_frame, event_size);
    memcpy(out + before + event_size, suffix, after);
    put_stamp(out + before + event_stamp, now_ns());
    size_t size = before + event_size + after;
    ssize_t sent = send(conn->fd, out, size, MSG_NOSIGNAL);
    if (sent == (ssize_t)size) return 1;
    if (sent < 0 && errno == EAGAIN) {
        dropped++;
        return 1;
    }
    return 0;
}

/* Write what a flood or a download may write now; 0 when it is over or broken. */
static int pour(struct conn *conn) {
    const char *buffer = conn->kind == FLOOD ? flood_frames : zeros;
    size_t size = conn->kind == FLOOD ? flood_size : sizeof zeros;
    for (int turn = 0; turn < 4; turn++) {
        size_t piece = size - conn->offset;
        if (conn->kind == DOWNLOAD && piece > conn->left) piece = (size_t)conn->left;
        ssize_t sent = send(conn->fd, buffer + conn->offset, piece, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return 0;
            break;
        }
        conn->offset = (conn->offset + (size_t)sent) % size;
        if (conn->kind == DOWNLOAD && !(conn->left -= (uint64_t)sent)) {
            conn->kind = READING;
            open_streams--;
            watch(conn, 0);
            return 1;
        }
    }
    watch(conn, 1);
    return 1;
}

static int stream(struct conn *conn, enum kind kind) {
    conn->kind = kind;
    open_streams++;
    return 1;
}

/* The whole request is there: answer it. 0 when the connection is to be closed. */
static int answer(struct conn *conn) {
    char *target = strchr(conn->head, ' ');
    if (!target) return 0;
    *strchrnul(++target, ' ') = '\0';
    char *query = strchr(target, '?');
    if (query) *query++ = '\0';
    char out[512];
    int size;
    if (!strncmp(target, "/tiny", 5)) return put_event(conn, STREAM_HEAD, "0\r\n\r\n");
    if (!strncmp(target, "/fresh", 6)) {
        static uint32_t number;
        snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nX-Number: %08x\r\n%s", number++, strstr(STREAM_HEAD, "Content-Type"));
        return put_event(conn, out, "0\r\n\r\n");
    }
    if (!strncmp(target, "/events", 7)) {
        if (!put_event(conn, STREAM_HEAD, "")) return 0;
        schedule(conn, 1000000000ull / query_number(query, "rate", 50));
        return stream(conn, EVENTS);
    }
    if (!strncmp(target, "/chat", 5)) {
        if (!put_event(conn, STREAM_HEAD, "")) return 0;
        conn->left = CHAT_EVENTS - 1;
        schedule(conn, CHAT_PERIOD_NS);
        return stream(conn, CHAT);
    }
    if (!strncmp(target, "/idle", 5)) {
        if (!put_event(conn, STREAM_HEAD, "")) return 0;
        uint64_t seconds = query_number(query, "keepalive", 0);
        if (seconds) schedule(conn, seconds * 1000000000ull);
        return stream(conn, IDLE);
    }
    if (!strncmp(target, "/flood", 6)) {
        if (!put(conn, STREAM_HEAD, strlen(STREAM_HEAD))) return 0;
        conn->offset = 0;
        stream(conn, FLOOD);
        return pour(conn);
    }
    if (!strncmp(target, "/download", 9)) {
        conn->left = query_number(query, "bytes", 1 << 20);
        conn->offset = 0;
        size = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                                         "Content-Length: %llu\r\n\r\n", (unsigned long long)conn->left);
        if (!put(conn, out, (size_t)size)) return 0;
        stream(conn, DOWNLOAD);
        return pour(conn);
    }
    char body[160];
    int length;
    if (!strncmp(target, "/stats", 6))
        length = snprintf(body, sizeof body, "{\"open_streams\":%llu,\"dropped\":%llu,\"late\":%llu}",
                          (unsigned long long)open_streams, (unsigned long long)dropped, (unsigned long long)late);
    else
        length = snprintf(body, sizeof body, "{\"received\":%llu}", (unsigned long long)conn->uploaded);
    size = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                    length, body);
    return put(conn, out, (size_t)size);
}

/* Read a request, head and body. 0 when the connection is to be closed. */
static int read_request(struct conn *conn) {
    static char data[256 * 1024];
    ssize_t got = recv(conn->fd, data, sizeof data, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    if (conn->kind != READING) return 1; /* nothing is expected of the client while it is answered */
    size_t size = (size_t)got, at = 0;
    if (!conn->head) {
        conn->head = must(malloc(HEAD_MAX + 1));
        conn->head_size = conn->head_end = 0;
    }
    if (!conn->head_end) {
        size_t before = conn->head_size, room = HEAD_MAX - before, piece = size < room ? size : room;
        memcpy(conn->head + before, data, piece);
        conn->head[conn->head_size += piece] = '\0';
        char *end = strstr(conn->head, "\r\n\r\n");
        if (!end) return conn->head_size < HEAD_MAX;
        conn->head_end = (size_t)(end + 4 - conn->head);
        *(end + 2) = '\0';
        body_begin(&conn->body, conn->head, 1);
        conn->uploaded = 0;
        at = conn->head_end - before;
    }
    body_take(&conn->body, data + at, size - at, &conn->uploaded);
    if (conn->body.state != COMPLETE) return 1;
    int alive = answer(conn);
    free(conn->head);
    conn->head = NULL;
    return alive;
}

/* Write the next event of a chat, and what ends it behind the last; 0 when the connection is gone. */
static int put_delta(struct conn *conn) {
    if (--conn->left) return put_event(conn, "", "");
    unschedule(conn);
    open_streams--;
    conn->kind = READING;
    return put_event(conn, "", chat_end);
}

static void tick(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timerfd");
    uint64_t now = now_ns();
    while (heap_size && heap[0]->due <= now) {
        struct conn *conn = heap[0];
        if (now - conn->due > LATE_NS) late++;
        conn->due += conn->period;
        sift_down(0);
        int alive = conn->kind == EVENTS ? put_event(conn, "", "")
                    : conn->kind == CHAT ? put_delta(conn)
                                         : put(conn, "d\r\n: keepalive\n\n\r\n", 18);
        if (!alive) {
            shutdown(conn->fd, SHUT_RDWR); /* its EPOLLIN drops it: the poller may have it in hand already */
            unschedule(conn);
        }
    }
}

static void make_frames(void) {
    char payload[FLOOD_EVENT + 1];
    memset(payload, 'x', sizeof payload);
    int size = snprintf(payload, sizeof payload,
                        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
                        "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"@0000000000000000000 ");
    payload[size] = 'x';
    const char *tail = "\"},\"finish_reason\":null}]}\n\n";
    memcpy(payload + EVENT_SIZE - strlen(tail), tail, strlen(tail));
    event_size = (size_t)snprintf(event_frame, sizeof event_frame, "%x\r\n%.*s\r\n", EVENT_SIZE, EVENT_SIZE, payload);
    event_stamp = (size_t)(strchr(event_frame, '@') + 1 - event_frame);
    static const char *ends[] = {
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
        "\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":64,\"total_tokens\":73}}\n\n",
        "data: [DONE]\n\n"};
    for (int part = 0, at = 0; part < 3; part++)
        at += sprintf(chat_end + at, "%zx\r\n%s\r\n%s", strlen(ends[part]), ends[part], part == 2 ? "0\r\n\r\n" : "");
    memset(payload, 'x', sizeof payload);
    memcpy(payload, "data: ", 6);
    memcpy(payload + FLOOD_EVENT - 2, "\n\n", 2);
    for (int count = 0; count < FLOOD_BUFFER / FLOOD_EVENT; count++)
        flood_size += (size_t)sprintf(flood_frames + flood_size, "%x\r\n%.*s\r\n", FLOOD_EVENT, FLOOD_EVENT, payload);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    socklen_t length = sizeof address;
    int one = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    make_frames();
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    static char listener_mark, timer_mark, input_mark;
    event.data.ptr = &listener_mark;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &timer_mark;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    event.data.ptr = &input_mark;
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        arm();
        int count = epoll_wait(poller, events, 256, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait");
        for (int at = 0; at < count; at++) {
            struct conn *conn = events[at].data.ptr;
            if ((void *)conn == &listener_mark) accept_all();
            else if ((void *)conn == &timer_mark) tick();
            else if ((void *)conn == &input_mark) {
                char byte;
                if (read(0, &byte, 1) <= 0) return 0;
            } else if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (!read_request(conn)) drop(conn);
                else if (events[at].events & EPOLLOUT && (conn->kind == FLOOD || conn->kind == DOWNLOAD) && !pour(conn))
                    drop(conn);
            } else if (conn->kind == FLOOD || conn->kind == DOWNLOAD) {
                if (!pour(conn)) drop(conn);
            }
        }
    }
}
