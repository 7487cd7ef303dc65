// The floor of the bench: what this machine gives to recv + pwrite and nothing else.
//
// A client thread for each connection asks the bench's own server, the one the agent loads from, for its share of the
// bytes, one request for each file it has a part of, and writes them to preallocated files. No checksums, no ready map,
// no gate, one blocking thread a connection: nothing that moves bytes from sockets into files can do with less. Prints
// one JSON object: the time from the creation of the files to the last byte written, and the CPU time of the client
// threads.
//
//   floor ADDRESS PORT PREFIX CONNECTIONS BYTES FILES DIRECTORY BUFFER_KIB
//
// The objects are ADDRESS:PORT, PREFIX00.bin and so on, of equal size, readable without a signature. The files
// DIRECTORY/floor-N are removed before it ends. Any failure ends it with status 1.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_HEAD (16L << 10)
#define MAX_FILES 64
#define MAX_CONNECTIONS 256

static long connections, total_bytes, files, file_bytes, buffer_bytes;
static const char *prefix;
static int file_fds[MAX_FILES];
static struct sockaddr_in address = {.sin_family = AF_INET};
static double client_cpu[MAX_CONNECTIONS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static long smaller(long a, long b) { return a < b ? a : b; }

// First byte of a connection's share; the share of the last ends at total_bytes.
static long share_start(long id) { return total_bytes / connections * id; }
static long share_end(long id) { return id + 1 == connections ? total_bytes : share_start(id + 1); }

static double seconds(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec * 1e-6; }

// Asks for a range of a file's object and takes the reply's head off the stream; returns how many bytes of the body
// came with it, in `buffer`.
static long ask(int socket_fd, long file, long from, long until, char *buffer) {
    char text[512];
    int length = snprintf(text, sizeof text,
                          "GET %s%02ld.bin HTTP/1.1\r\nHost: localhost\r\nRange: bytes=%ld-%ld\r\n\r\n", prefix, file,
                          from, until - 1);
    if (write(socket_fd, text, (size_t)length) != length) fail("floor: write of the request");
    long have = 0;
    for (;;) {
        ssize_t got = recv(socket_fd, buffer + have, (size_t)(smaller(buffer_bytes, MAX_HEAD) - have), 0);
        if (got <= 0) fail("floor: recv of the head");
        have += got;
        char *end = memmem(buffer, (size_t)have, "\r\n\r\n", 4);
        if (!end) continue;
        if (memcmp(buffer, "HTTP/1.1 206 ", 13)) {
            fprintf(stderr, "floor: the server said %.40s\n", buffer);
            exit(1);
        }
        long head = end + 4 - buffer;
        memmove(buffer, buffer + head, (size_t)(have - head));
        return have - head;
    }
}

static void *receive(void *argument) {
    long id = (long)(intptr_t)argument;
    int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *)&address, sizeof address)) fail("floor: connect");
    char *buffer = malloc((size_t)buffer_bytes);
    if (!buffer) fail("floor: buffer");
    for (long at = share_start(id), end = share_end(id); at < end;) {
        long file = at / file_bytes, base = file * file_bytes, until = smaller(end, base + file_bytes);
        long have = ask(socket_fd, file, at - base, until - base, buffer);
        while (at < until) {
            long wanted = smaller(buffer_bytes, until - at);
            while (have < wanted) {
                ssize_t got = recv(socket_fd, buffer + have, (size_t)(wanted - have), 0);
                if (got <= 0) fail("floor: recv");
                have += got;
            }
            if (pwrite(file_fds[file], buffer, (size_t)have, at - base) != have) fail("floor: pwrite");
            at += have;
            have = 0;
        }
    }
    free(buffer);
    close(socket_fd);
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage)) fail("floor: getrusage");
    client_cpu[id] = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    return NULL;
}

static void file_path(char path[PATH_MAX], const char *directory, long file) {
    snprintf(path, PATH_MAX, "%s/floor-%ld", directory, file);
}

static void make_files(const char *directory) {
    char path[PATH_MAX];
    for (long file = 0; file < files; file++) {
        file_path(path, directory, file);
        file_fds[file] = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
        if (file_fds[file] < 0) fail(path);
        if (posix_fallocate(file_fds[file], 0, file_bytes)) fail("floor: fallocate");
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **values) {
    if (count != 9 && count != 10) {
        fprintf(stderr, "usage: floor ADDRESS PORT PREFIX CONNECTIONS BYTES FILES DIRECTORY BUFFER_KIB [keep]\n");
        return 1;
    }
    if (inet_pton(AF_INET, values[1], &address.sin_addr) != 1) fail("floor: address");
    address.sin_port = htons((uint16_t)atoi(values[2]));
    prefix = values[3];
    connections = atol(values[4]);
    total_bytes = atol(values[5]);
    files = atol(values[6]);
    const char *directory = values[7];
    buffer_bytes = atol(values[8]) << 10;
    if (connections < 1 || connections > MAX_CONNECTIONS || files < 1 || files > MAX_FILES || buffer_bytes < MAX_HEAD ||
        total_bytes < connections || total_bytes % files) {
        fprintf(stderr, "floor: at most %d connections and %d files of equal size\n", MAX_CONNECTIONS, MAX_FILES);
        return 1;
    }
    file_bytes = total_bytes / files;

    double started = now(), cpu = 0;
    make_files(directory);
    pthread_t clients[MAX_CONNECTIONS];
    for (long id = 0; id < connections; id++)
        if (pthread_create(&clients[id], NULL, receive, (void *)(intptr_t)id)) fail("floor: thread");
    for (long id = 0; id < connections; id++) {
        pthread_join(clients[id], NULL);
        cpu += client_cpu[id];
    }
    double ended = now();

    for (long file = 0; file < files; file++) {
        char path[PATH_MAX];
        file_path(path, directory, file);
        close(file_fds[file]);
        if (count == 9) unlink(path);
    }
    printf("{\"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", ended - started, cpu);
    return 0;
}
