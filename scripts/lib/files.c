/* What the benchmark does with a mounted directory: many small files, then one
 * large one.
 *
 *   files DIR COUNT MIB
 *
 * Prints a line for each kind of work: its name, how often, and in how many microseconds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 128, BLOCK = 1 << 20 };

static char block[BLOCK];

static void must(int fine, const char *what) {
    if (!fine) {
        perror(what);
        exit(1);
    }
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000LL + time.tv_nsec / 1000;
}

static void make(const char *name) {
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    must(fd >= 0 && write(fd, block, SMALL) == SMALL && close(fd) == 0, "create");
}

static void look(const char *name) {
    struct stat found;
    must(stat(name, &found) == 0 && found.st_size == SMALL, "stat");
}

static void take(const char *name) {
    int fd = open(name, O_RDONLY);
    must(fd >= 0 && read(fd, block, BLOCK) == SMALL && close(fd) == 0, "read");
}

static void drop(const char *name) { must(unlink(name) == 0, "unlink"); }

static void each(const char *what, int count, int times, void (*act)(const char *)) {
    char name[16];
    long long begun = now();
    for (int number = 0; number < count * times; number++) {
        snprintf(name, sizeof name, "f%d", number % count);
        act(name);
    }
    printf("%s %d %lld\n", what, count * times, now() - begun);
}

static void large(const char *what, int mib, int flags) {
    long long begun = now();
    int fd = open("large", flags, 0644), done = 0;
    must(fd >= 0, what);
    /* Reads may be short. */
    for (long long left = (long long)mib * BLOCK; left > 0; left -= done) {
        done = flags & O_CREAT ? write(fd, block, BLOCK) : read(fd, block, BLOCK);
        must(done > 0, what);
    }
    must(close(fd) == 0, what);
    printf("%s %d %lld\n", what, mib, now() - begun);
}

int main(int argc, char **argv) {
    must(argc == 4, "files DIR COUNT MIB");
    int count = atoi(argv[2]), mib = atoi(argv[3]);
    must(chdir(argv[1]) == 0 && mkdir("work", 0755) == 0 && chdir("work") == 0, argv[1]);
    each("create", count, 1, make);
    /* Over in a moment, so more often. */
    each("stat", count, 5, look);
    each("read", count, 5, take);
    each("unlink", count, 1, drop);
    large("write-large", mib, O_WRONLY | O_CREAT | O_EXCL);
    large("read-large", mib, O_RDONLY);
    drop("large");
    must(chdir("..") == 0 && rmdir("work") == 0, "rmdir");
    return 0;
}
