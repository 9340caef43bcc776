/* In the test images, owned by root and setuid: who a program can become there.
   Prints the real and the effective user id, then reads what it is given as root would. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **names) {
    char buffer[4096];
    printf("%d %d\n", (int)getuid(), (int)geteuid());
    fflush(stdout);
    for (int i = 1; i < count; i++) {
        int file = open(names[i], O_RDONLY);
        ssize_t got = file < 0 ? -1 : read(file, buffer, sizeof buffer);
        if (got < 0) perror(names[i]);
        else if (write(1, buffer, (size_t)got) != got) return 1;
    }
    return 0;
}
