/* The bottomless file system of `cargo xtask bench --scale`: takes the bytes out of a process's files again while that
 * process fills them, so that a model far larger than memory fits into a tmpfs.
 *
 *   eater PID DIRECTORY
 *
 * Opening the files would have to wait for their bytes (that is what the agent is for), so the descriptors are copied
 * out of the process, pidfd_getfd(2). The last part of each file is left alone, and a file that has bytes there is not
 * touched any more: by then it is nearly complete, and from its completion on its times must not change. Ends with the
 * process. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What is left of each file: more than is in flight. And its very end, which the agent fetches first. */
static const off_t LEFT = 384LL << 20, END = 64LL << 20;
/* Between two rounds, in milliseconds, and rounds between two looks for new files. */
enum { PAUSE = 20, LOOK = 25, MOST = 256 };

static struct { int fd; off_t size; ino_t inode; int full; } files[MOST];
static int count;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Copies the descriptors of large files below the directory. */
static void look(int process, const char *pid, const char *directory)
{
    char list[64], path[PATH_MAX + 64], target[PATH_MAX];
    snprintf(list, sizeof list, "/proc/%s/fd", pid);
    DIR *all = opendir(list);
    if (!all)
        return;
    for (struct dirent *entry; (entry = readdir(all));) {
        snprintf(path, sizeof path, "%s/%s", list, entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        struct stat about;
        if (length < 0 || strncmp(target, directory, strlen(directory)) != 0 || stat(path, &about) != 0)
            continue;
        int known = !S_ISREG(about.st_mode) || about.st_size <= 2 * LEFT;
        for (int at = 0; at < count && !known; at++)
            known = files[at].inode == about.st_ino;
        if (known || count == MOST)
            continue;
        int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
        if (fd < 0)
            continue;
        files[count].fd = fd;
        files[count].size = about.st_size;
        files[count++].inode = about.st_ino;
    }
    closedir(all);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: eater PID DIRECTORY\n");
        return 2;
    }
    int process = (int)syscall(SYS_pidfd_open, atoi(argv[1]), 0);
    if (process < 0)
        fail("pidfd_open");
    struct pollfd end = {.fd = process, .events = POLLIN};
    for (unsigned round = 0; poll(&end, 1, PAUSE) == 0; round++) {
        if (round % LOOK == 0)
            look(process, argv[1], argv[2]);
        for (int at = 0; at < count; at++) {
            off_t keep = files[at].size - LEFT;
            if (files[at].full)
                continue;
            off_t data = lseek(files[at].fd, keep, SEEK_DATA);
            files[at].full = data >= 0 && data < files[at].size - END;
            if (!files[at].full
                && fallocate(files[at].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, keep) != 0)
                fail("fallocate");
        }
    }
    return 0;
}
