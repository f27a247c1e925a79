/* What the upstream and the load generator share: time, sockets, and the two ways in which a body can end. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_DIGITS 19 /* nanoseconds of CLOCK_MONOTONIC, with leading zeros */

static inline uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, ": %s\n", strerror(errno));
    exit(1);
}

static inline void *must(void *memory) {
    if (!memory) die("out of memory");
    return memory;
}

static inline void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* The unsigned decimal number after `name=` in a query string, or `fallback`. */
static inline uint64_t query_number(const char *query, const char *name, uint64_t fallback) {
    size_t length = strlen(name);
    for (const char *at = query; at && *at; at = strchr(at, '&'), at = at ? at + 1 : NULL)
        if (!strncmp(at, name, length) && at[length] == '=') return strtoull(at + length + 1, NULL, 10);
    return fallback;
}

/* The value of a header field inside a NUL-terminated head, or NULL. */
static inline const char *field(const char *head, const char *name) {
    const char *at = strcasestr(head, name);
    return at ? at + strlen(name) : NULL;
}

/* How much of a body is still to come. */
struct body {
    enum { SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE, COMPLETE } state;
    uint64_t left; /* bytes of the body, or of the chunk */
    int line;      /* characters of the trailer line so far */
};

static inline void body_begin(struct body *body, const char *head, int request) {
    const char *length = field(head, "\r\ncontent-length:");
    *body = (struct body){0};
    if (field(head, "\r\ntransfer-encoding: chunked")) {
        body->state = CHUNK_SIZE;
    } else if (length) {
        body->left = strtoull(length, NULL, 10);
        body->state = body->left ? SIZED : COMPLETE;
    } else {
        body->state = request ? COMPLETE : UNTIL_CLOSE;
    }
}

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Take bytes of a body; gives how many of them belong to it. `payload` grows by those without the framing. */
static inline size_t body_take(struct body *body, const char *data, size_t size, uint64_t *payload) {
    size_t at = 0;
    while (at < size && body->state != COMPLETE) {
        if (body->state == UNTIL_CLOSE) {
            *payload += size - at;
            return size;
        }
        if (body->state == SIZED || body->state == CHUNK_DATA) {
            size_t piece = size - at < body->left ? size - at : (size_t)body->left;
            at += piece;
            *payload += piece;
            body->left -= piece;
            if (!body->left) body->state = body->state == SIZED ? COMPLETE : CHUNK_END;
            continue;
        }
        char c = data[at++];
        if (body->state == CHUNK_SIZE) {
            int digit = hex_digit(c);
            if (digit >= 0) body->left = body->left * 16 + (uint64_t)digit;
            else if (c == '\n') {
                body->state = body->left ? CHUNK_DATA : TRAILER;
                body->line = 0;
            }
        } else if (body->state == CHUNK_END) {
            if (c == '\n') body->state = CHUNK_SIZE;
        } else if (c == '\n') {
            if (!body->line) body->state = COMPLETE;
            body->line = 0;
        } else if (c != '\r') {
            body->line++;
        }
    }
    return at;
}

#endif
