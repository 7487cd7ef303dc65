/* A reader for `cargo xtask bench`, which prints how long it took and how much of that was in read calls, as JSON.
 *
 *   reader small COUNT FILE            COUNT preads of 4 KiB through the file, again from the start at its end
 *   reader sequential COUNT FILE       COUNT times through the file in reads of 1 MiB
 *   reader getppid COUNT FILE          COUNT system calls that do nothing; the FILE is not touched
 *   reader faults COUNT FILE           COUNT page faults of memory of its own; the FILE is not touched
 *   reader shuffled MICROSECONDS FILE  once through all FILEs in 4 MiB preads, in an order that is always the same,
 *                                      with so long a pause for each, as if it computed something with them
 *   reader once 0 FILE...              through all FILEs in order in 4 MiB reads
 *   reader mapped 0 FILE...            maps one FILE after the other and touches every page in order
 *
 * The last two look for holes: no byte of the test server's objects is 0. They also print when they ended, in seconds
 * since 1970, their processor time and how many bytes there were. Any error ends it with status 1: a reader that did not read has no time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 4 << 10, LARGE = 1 << 20, PIECE = 4 << 20 };

static char buffer[PIECE];
static double in_reads;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_file(const char *path, off_t *size)
{
    struct stat about;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) != 0)
        fail(path);
    *size = about.st_size;
    return file;
}

static void small(long count, const char *path)
{
    off_t size, at = 0;
    int file = open_file(path, &size);
    for (long n = 0; n < count; n++) {
        if (pread(file, buffer, SMALL, at) != SMALL)
            fail("pread");
        at = at + 2 * SMALL > size ? 0 : at + SMALL;
    }
}

static void sequential(long count, const char *path)
{
    off_t size;
    int file = open_file(path, &size);
    for (long n = 0; n < count; n++) {
        ssize_t got;
        if (lseek(file, 0, SEEK_SET) != 0)
            fail("lseek");
        while ((got = read(file, buffer, LARGE)) > 0)
            ;
        if (got < 0)
            fail("read");
    }
}

static void faults(long count)
{
    enum { PAGES = 4096 };
    long page = sysconf(_SC_PAGESIZE);
    for (long n = 0; n < count; n += PAGES) {
        char *bytes = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (bytes == MAP_FAILED)
            fail("mmap");
        madvise(bytes, PAGES * page, MADV_NOHUGEPAGE);
        for (long at = 0; at < PAGES; at++)
            bytes[at * page] = 1;
        munmap(bytes, PAGES * page);
    }
}

struct piece {
    int file;
    off_t at;
};

static void shuffled(long pause_us, int files, char **paths)
{
    size_t count = 0, room = 0;
    struct piece *pieces = NULL;
    for (int n = 0; n < files; n++) {
        off_t size;
        int file = open_file(paths[n], &size);
        for (off_t at = 0; at < size; at += PIECE) {
            if (count == room && !(pieces = realloc(pieces, (room = 2 * room + 64) * sizeof *pieces)))
                fail("realloc");
            pieces[count++] = (struct piece){ file, at };
        }
    }
    /* Knuth's multiplicative generator: the same order in every run. */
    uint64_t random = 4;
    for (size_t n = count; n > 1; n--) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t other = (random >> 33) % n;
        struct piece last = pieces[n - 1];
        pieces[n - 1] = pieces[other];
        pieces[other] = last;
    }
    struct timespec pause = { pause_us / 1000000, pause_us % 1000000 * 1000 };
    for (size_t n = 0; n < count; n++) {
        double began = now();
        if (pread(pieces[n].file, buffer, PIECE, pieces[n].at) <= 0)
            fail("pread");
        in_reads += now() - began;
        nanosleep(&pause, NULL);
    }
}

static void look(const char *bytes, off_t count, const char *path)
{
    for (off_t at = 0; at < count; at += SMALL)
        if (!bytes[at]) {
            fprintf(stderr, "%s: a hole\n", path);
            exit(1);
        }
}

static off_t whole(int files, char **paths, int mapped)
{
    off_t size, total = 0;
    for (int n = 0; n < files; n++) {
        int file = open_file(paths[n], &size);
        if (mapped) {
            char *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, file, 0);
            if (bytes == MAP_FAILED)
                fail(paths[n]);
            look(bytes, size, paths[n]);
            munmap(bytes, (size_t)size);
            total += size;
        }
        for (ssize_t got; !mapped && (got = read(file, buffer, PIECE)) != 0; total += got) {
            if (got < 0)
                fail(paths[n]);
            look(buffer, got, paths[n]);
        }
        close(file);
    }
    return total;
}

int main(int arguments, char **argument)
{
    if (arguments < 4) {
        fprintf(stderr, "usage: reader small|sequential|getppid|faults|shuffled|once|mapped NUMBER FILE...\n");
        return 1;
    }
    double began = now();
    off_t bytes = 0;
    long number = atol(argument[2]);
    if (strcmp(argument[1], "small") == 0)
        small(number, argument[3]);
    else if (strcmp(argument[1], "sequential") == 0)
        sequential(number, argument[3]);
    else if (strcmp(argument[1], "getppid") == 0)
        for (long n = 0; n < number; n++)
            getppid();
    else if (strcmp(argument[1], "faults") == 0)
        faults(number);
    else if (strcmp(argument[1], "shuffled") == 0)
        shuffled(number, arguments - 3, argument + 3);
    else
        bytes = whole(arguments - 3, argument + 3, strcmp(argument[1], "mapped") == 0);
    double seconds = now() - began;
    struct timespec ended;
    struct rusage used;
    clock_gettime(CLOCK_REALTIME, &ended);
    getrusage(RUSAGE_SELF, &used);
    printf("{\"seconds\":%.6f,\"in_reads\":%.6f,\"ended\":%.6f,\"cpu_seconds\":%.6f,\"bytes\":%lld}\n", seconds, in_reads,
           ended.tv_sec + ended.tv_nsec / 1e9,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           (long long)bytes);
    return 0;
}
