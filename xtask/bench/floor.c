// The floor of the bench: what this machine gives to recv + pwrite and nothing else.
//
// A server thread for each loopback connection sends a tile of memory over and over with sendfile;
// a client thread for each receives its share of the bytes and writes them to preallocated files.
// No HTTP, no checksums, no ready map, no gate: nothing that moves bytes from sockets into files can
// do with less. Prints one JSON object: the time from the first connection to the last byte written,
// and the CPU time of the client threads alone, which are what a real client is compared with.
//
//   floor CONNECTIONS BYTES FILES DIRECTORY BUFFER_KIB
//
// The files DIRECTORY/floor-N are removed before it ends. Any failure ends it with status 1.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// As large as the test server's tile, so that both send from equally cold memory.
#define TILE_BYTES (64L << 20)
#define MAX_FILES 64
#define MAX_CONNECTIONS 256

static long connections, total_bytes, files, file_bytes, buffer_bytes;
static int tile_fd, listen_fd, file_fds[MAX_FILES];
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

static void *serve(void *argument) {
    int socket_fd = (int)(intptr_t)argument;
    long id;
    if (recv(socket_fd, &id, sizeof id, MSG_WAITALL) != sizeof id) fail("floor: recv of the id");
    for (long at = share_start(id), end = share_end(id); at < end;) {
        off_t place = at % TILE_BYTES;
        ssize_t sent = sendfile(socket_fd, tile_fd, &place, smaller(end - at, TILE_BYTES - place));
        if (sent <= 0) fail("floor: sendfile");
        at += sent;
    }
    close(socket_fd);
    return NULL;
}

static void *accept_all(void *argument) {
    (void)argument;
    for (long i = 0; i < connections; i++) {
        int socket_fd = accept(listen_fd, NULL, NULL);
        if (socket_fd < 0) fail("floor: accept");
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)socket_fd)) fail("floor: thread");
        pthread_detach(thread);
    }
    return NULL;
}

static double seconds(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec * 1e-6; }

static void *receive(void *argument) {
    long id = (long)(intptr_t)argument;
    int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *)&address, sizeof address)) fail("floor: connect");
    if (write(socket_fd, &id, sizeof id) != sizeof id) fail("floor: write of the id");
    char *buffer = malloc((size_t)buffer_bytes);
    if (!buffer) fail("floor: buffer");
    for (long at = share_start(id), end = share_end(id); at < end;) {
        long file = at / file_bytes;
        long wanted = smaller(buffer_bytes, smaller(end, (file + 1) * file_bytes) - at);
        long have = 0;
        while (have < wanted) {
            ssize_t got = recv(socket_fd, buffer + have, (size_t)(wanted - have), 0);
            if (got <= 0) fail("floor: recv");
            have += got;
        }
        if (pwrite(file_fds[file], buffer, (size_t)have, at % file_bytes) != have) fail("floor: pwrite");
        at += have;
    }
    free(buffer);
    close(socket_fd);
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage)) fail("floor: getrusage");
    client_cpu[id] = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    return NULL;
}

// Not all zero, so that no layer can take a short cut.
static void make_tile(void) {
    tile_fd = memfd_create("floor-tile", 0);
    if (tile_fd < 0 || ftruncate(tile_fd, TILE_BYTES)) fail("floor: tile");
    uint64_t *words = mmap(NULL, TILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, tile_fd, 0);
    if (words == MAP_FAILED) fail("floor: mmap of the tile");
    uint64_t word = 0x9e3779b97f4a7c15u;
    for (long i = 0; i < TILE_BYTES / 8; i++) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        words[i] = word;
    }
    munmap(words, TILE_BYTES);
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

static void listen_anywhere(void) {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&address, length) || listen(listen_fd, MAX_CONNECTIONS) ||
        getsockname(listen_fd, (struct sockaddr *)&address, &length))
        fail("floor: listen");
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **values) {
    if (count != 6) {
        fprintf(stderr, "usage: floor CONNECTIONS BYTES FILES DIRECTORY BUFFER_KIB\n");
        return 1;
    }
    connections = atol(values[1]);
    total_bytes = atol(values[2]);
    files = atol(values[3]);
    buffer_bytes = atol(values[5]) << 10;
    if (connections < 1 || connections > MAX_CONNECTIONS || files < 1 || files > MAX_FILES || buffer_bytes < 1 ||
        total_bytes < connections || total_bytes % files) {
        fprintf(stderr, "floor: at most %d connections and %d files of equal size\n", MAX_CONNECTIONS, MAX_FILES);
        return 1;
    }
    file_bytes = total_bytes / files;
    make_tile();
    make_files(values[4]);
    listen_anywhere();

    pthread_t acceptor, clients[MAX_CONNECTIONS];
    if (pthread_create(&acceptor, NULL, accept_all, NULL)) fail("floor: thread");
    double started = now(), cpu = 0;
    for (long id = 0; id < connections; id++)
        if (pthread_create(&clients[id], NULL, receive, (void *)(intptr_t)id)) fail("floor: thread");
    for (long id = 0; id < connections; id++) {
        pthread_join(clients[id], NULL);
        cpu += client_cpu[id];
    }
    double ended = now();

    for (long file = 0; file < files; file++) {
        char path[PATH_MAX];
        file_path(path, values[4], file);
        close(file_fds[file]);
        unlink(path);
    }
    printf("{\"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", ended - started, cpu);
    return 0;
}
