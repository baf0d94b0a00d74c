/* Fails one operation on files below a directory, or kills the process there: a library for LD_PRELOAD.

   faulty_disk_arm(directory, at, kind) begins to count; the at-th operation (0: none) meets a fault of that kind.
   faulty_disk_count() tells how many operations there were, faulty_disk_struck() the function that met the fault, also
   to the parent of a process that armed it: what a killed process did is known. Before it forks, it calls
   faulty_disk_share(), so that its neighbours' faults are not taken for its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { NONE, IO_ERROR, NO_SPACE, SHORT_WRITE, KILL, TORN_WRITE, FULL_FROM_HERE };

static char directory[4096];
static size_t directory_length;
static long operations, strikes_at;
static enum kind strikes_with;
static char *struck_operation;

enum { NAME_LENGTH = 64 };

/* Takes a place for the name that the caller shares with children which it forks later, and with nobody else. */
__attribute__((constructor)) void faulty_disk_share(void) {
  void *shared = mmap(NULL, NAME_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) _exit(70);
  struck_operation = shared;
}

void faulty_disk_arm(const char *below, long at, int kind) {
  operations = 0;
  strikes_at = at;
  strikes_with = kind;
  if (at) struck_operation[0] = 0;
  snprintf(directory, sizeof directory, "%s", below);
  directory_length = strlen(directory);
}

long faulty_disk_count(void) { return operations; }

const char *faulty_disk_struck(void) { return struck_operation; }

static int is_below(const char *path) {
  return directory_length && path && !strncmp(path, directory, directory_length) && path[directory_length] == '/';
}

static int is_file_below(int file) {
  char link[64], path[4096];
  int saved = errno;
  if (!directory_length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = saved;
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* What the present operation meets. Only what takes space fails on a disk that is full. */
static enum kind strike(const char *name, int takes_space) {
  long now = __sync_add_and_fetch(&operations, 1);
  if (!strikes_at || now < strikes_at) return NONE;
  if (strikes_with == FULL_FROM_HERE ? !takes_space : now != strikes_at) return NONE;
  snprintf(struck_operation, NAME_LENGTH, "%s", name);
  if (strikes_with == KILL) kill(getpid(), SIGKILL);
  return strikes_with;
}

static int fails(enum kind met) {
  if (met == NONE || met == TORN_WRITE) return 0;
  errno = met == IO_ERROR ? EIO : ENOSPC;
  return 1;
}

static void dies_if_torn(enum kind met) {
  if (met == TORN_WRITE) kill(getpid(), SIGKILL);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITES(name, parameters, first_half, all) \
  ssize_t name parameters { \
    REAL(name); \
    if (!is_file_below(file)) return real all; \
    enum kind met = strike(#name, 1); \
    if (met == TORN_WRITE) { \
      if (real first_half < 0) { /* it dies anyway */ } \
      dies_if_torn(met); \
    } \
    if (met == SHORT_WRITE && length > 1) return real first_half; \
    return fails(met) ? -1 : real all; \
  }

WRITES(write, (int file, const void *data, size_t length), (file, data, length / 2), (file, data, length))
WRITES(pwrite, (int file, const void *data, size_t length, off_t at), (file, data, length / 2, at),
       (file, data, length, at))
WRITES(pwrite64, (int file, const void *data, size_t length, off64_t at), (file, data, length / 2, at),
       (file, data, length, at))

/* What dies where a write is torn dies here after the operation. */
#define CHANGES(name, parameters, is_ours, takes_space, arguments) \
  int name parameters { \
    REAL(name); \
    if (!(is_ours)) return real arguments; \
    enum kind met = strike(#name, takes_space); \
    if (fails(met)) return -1; \
    int result = real arguments; \
    dies_if_torn(met); \
    return result; \
  }

CHANGES(fsync, (int file), is_file_below(file), 0, (file))
CHANGES(fdatasync, (int file), is_file_below(file), 0, (file))
CHANGES(ftruncate, (int file, off_t length), is_file_below(file), 0, (file, length))
CHANGES(ftruncate64, (int file, off64_t length), is_file_below(file), 0, (file, length))
CHANGES(unlink, (const char *path), is_below(path), 0, (path))
CHANGES(unlinkat, (int at, const char *path, int flags), is_below(path), 0, (at, path, flags))
CHANGES(rename, (const char *from, const char *to), is_below(from), 0, (from, to))
CHANGES(renameat, (int a, const char *from, int b, const char *to), is_below(from), 0, (a, from, b, to))
CHANGES(link, (const char *from, const char *to), is_below(from), 1, (from, to))
CHANGES(chmod, (const char *path, mode_t mode), is_below(path), 0, (path, mode))
CHANGES(fchmod, (int file, mode_t mode), is_file_below(file), 0, (file, mode))

/* Opening to read alone changes nothing, and is not counted. */
#define OPENS(name, first, call) \
  int name(first const char *path, int flags, ...) { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    if (!is_below(path) || (flags & O_ACCMODE) == O_RDONLY) return real call; \
    enum kind met = strike(#name, (flags & O_CREAT) != 0); \
    if (fails(met)) return -1; \
    int result = real call; \
    dies_if_torn(met); \
    return result; \
  }
#define COMMA ,

OPENS(open, , (path, flags, mode))
OPENS(open64, , (path, flags, mode))
OPENS(openat, int at COMMA, (at, path, flags, mode))
OPENS(openat64, int at COMMA, (at, path, flags, mode))
