/* A small server as one writes it: a thread for each connection, keep-alive, and on SIGTERM what is in flight is answered,
   and connections that are idle are closed. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static atomic_int stopping, active;

static void stop(int number) {
  (void)number;
  stopping = 1;
}

static void *serve(void *argument) {
  int fd = (int)(long)argument, used = 0;
  char request[8192], answer[256];
  while (used < (int)sizeof request - 1) {
    ssize_t got = read(fd, request + used, sizeof request - 1 - used);
    if (got <= 0) break;
    used += got;
    request[used] = 0;
    if (!strstr(request, "\r\n\r\n")) continue;
    active++;
    int last = stopping || strcasestr(request, "\r\nconnection: close");
    int length = snprintf(answer, sizeof answer, "ospid:%d\n", getpid());
    char body[64];
    memcpy(body, answer, length);
    int total = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%.*s",
                         length, last ? "close" : "keep-alive", length, body);
    int failed = write(fd, answer, total) != total;
    active--;
    used = 0;
    if (last || failed) break;
  }
  close(fd);
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_handler = stop};
  sigset_t blocked, none;
  sigemptyset(&none);
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  sigaction(SIGTERM, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  while (!stopping) {
    struct pollfd listener = {.fd = 3, .events = POLLIN};
    if (ppoll(&listener, 1, NULL, &none) <= 0) continue;
    int fd = accept4(3, NULL, NULL, SOCK_CLOEXEC);
    pthread_t thread;
    if (fd < 0) continue;
    if (pthread_create(&thread, NULL, serve, (void *)(long)fd)) close(fd);
    else pthread_detach(thread);
  }
  close(3);
  while (active) usleep(1000);
  return 0;
}
