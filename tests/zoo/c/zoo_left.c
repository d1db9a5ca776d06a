/* The extension module `zoo_left`: functions that each leave something behind beside memory, in exactly one known
 * way, and twins that do not. ../left.py says what each one leaves. */
#include "zoo.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pty.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char path[4096];
static char other[4096];
static unsigned count;

/* Puts a name of its own for each call into `path`, and one with `ending` into `other`. */
static int next_path(PyObject *args, const char *ending)
{
    const char *folder;
    if (!PyArg_ParseTuple(args, "s", &folder))
        return -1;
    count++;
    snprintf(path, sizeof path, "%s/%u", folder, count);
    snprintf(other, sizeof other, "%s/%u%s", folder, count, ending);
    return 0;
}

static PyObject *done(int failed)
{
    if (failed)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static int make_file(const char *name)
{
    int fd = open(name, O_CREAT | O_WRONLY, 0600);
    return fd < 0 ? -1 : close(fd);
}

#define WITH_PATH(name, ending) \
    static PyObject *name(PyObject *Py_UNUSED(module), PyObject *args) \
    { \
        if (next_path(args, ending) < 0) \
            return NULL;

/* Names. */

WITH_PATH(leave_renamed, ".part")
    int failed = make_file(other) < 0;
    failed |= rename(other, path) < 0; /* LEAK: leave_renamed */
    return done(failed);
}

WITH_PATH(twin_renamed, ".part")
    return done(make_file(other) < 0 || rename(other, path) < 0 || unlink(path) < 0);
}

/* Onto the same name in each call, which replaces what was there. */
static PyObject *twin_replaced(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *folder;
    if (!PyArg_ParseTuple(args, "s", &folder))
        return NULL;
    snprintf(path, sizeof path, "%s/final", folder);
    snprintf(other, sizeof other, "%s/part-%u", folder, ++count);
    return done(make_file(other) < 0 || rename(other, path) < 0);
}

/* One file that has another name after each call. */
static PyObject *twin_moved_on(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *folder;
    if (!PyArg_ParseTuple(args, "s", &folder))
        return NULL;
    if (count == 0) {
        snprintf(path, sizeof path, "%s/0", folder);
        if (make_file(path) < 0)
            return done(1);
    }
    snprintf(other, sizeof other, "%s/%u", folder, ++count);
    int failed = rename(path, other) < 0;
    memcpy(path, other, sizeof path);
    return done(failed);
}

/* Removed at the beginning of the next call, and made anew. */
static PyObject *twin_made_anew(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *folder;
    if (!PyArg_ParseTuple(args, "s", &folder))
        return NULL;
    snprintf(path, sizeof path, "%s/anew", folder);
    unlink(path);
    return done(make_file(path) < 0);
}

WITH_PATH(leave_linked, "")
    snprintf(other, sizeof other, "%.*s/one", (int)(strrchr(path, '/') - path), path);
    int failed = count == 1 && make_file(other) < 0;
    failed |= link(other, path) < 0; /* LEAK: leave_linked */
    return done(failed);
}

WITH_PATH(leave_symlink, "")
    int failed = symlinkat("nowhere", AT_FDCWD, path) < 0; /* LEAK: leave_symlink */
    return done(failed);
}

WITH_PATH(twin_symlink, "")
    return done(symlinkat("nowhere", AT_FDCWD, path) < 0 || unlink(path) < 0);
}

WITH_PATH(leave_fifo, "")
    int failed = mkfifo(path, 0600) < 0; /* LEAK: leave_fifo */
    return done(failed);
}

WITH_PATH(leave_node, "")
    int failed = mknod(path, S_IFREG | 0600, 0) < 0; /* LEAK: leave_node */
    return done(failed);
}

/* By a name that is relative to an open folder. */
static PyObject *leave_folder(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *folder;
    char name[16];
    if (!PyArg_ParseTuple(args, "s", &folder))
        return NULL;
    int at = open(folder, O_DIRECTORY);
    snprintf(name, sizeof name, "%u", ++count);
    int failed = at < 0 || mkdirat(at, name, 0700) < 0; /* LEAK: leave_folder */
    close(at);
    return done(failed);
}

/* A folder that goes with all that is in it. */
WITH_PATH(twin_folder, "/inside")
    return done(mkdir(path, 0700) < 0 || make_file(other) < 0 || unlink(other) < 0 || rmdir(path) < 0);
}

static int bind_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, strnlen(name, sizeof address.sun_path - 1));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int status = bind(fd, (struct sockaddr *)&address, sizeof address); /* LEAK: leave_socket */
    close(fd);
    return status;
}

WITH_PATH(leave_socket, "")
    return done(bind_to(path) < 0);
}

WITH_PATH(twin_socket, "")
    return done(bind_to(path) < 0 || unlink(path) < 0);
}

/* By ways that no hook sees: only the folder tells. */
WITH_PATH(leave_by_child, "")
    pid_t child;
    char *command[] = {"mkdir", path, NULL};
    int status = posix_spawnp(&child, "mkdir", NULL, NULL, command, environ);
    return done(status != 0 || waitpid(child, NULL, 0) < 0);
}

WITH_PATH(leave_by_system_call, "")
    return done(syscall(SYS_mkdirat, AT_FDCWD, path, 0700) < 0);
}

WITH_PATH(twin_by_system_call, "")
    return done(syscall(SYS_mkdirat, AT_FDCWD, path, 0700) < 0 || rmdir(path) < 0);
}

/* Shared memory, semaphores, message queues. */

static char *next_name(void)
{
    snprintf(path, sizeof path, "/zoo-left-%d-%u", (int)getpid(), ++count);
    return path;
}

static int keep_shared(void)
{
    int fd = shm_open(next_name(), O_CREAT | O_EXCL | O_RDWR, 0600); /* LEAK: leave_shared */
    return fd < 0 ? -1 : close(fd);
}

static PyObject *leave_shared(NOARGS)
{
    return done(keep_shared() < 0);
}

static PyObject *twin_shared(NOARGS)
{
    return done(keep_shared() < 0 || shm_unlink(path) < 0);
}

static int keep_semaphore(void)
{
    sem_t *semaphore = sem_open(next_name(), O_CREAT | O_EXCL, 0600, 1); /* LEAK: leave_semaphore */
    return semaphore == SEM_FAILED ? -1 : sem_close(semaphore);
}

static PyObject *leave_semaphore(NOARGS)
{
    return done(keep_semaphore() < 0);
}

static PyObject *twin_semaphore(NOARGS)
{
    return done(keep_semaphore() < 0 || sem_unlink(path) < 0);
}

static int keep_queue(void)
{
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 1};
    mqd_t queue = mq_open(next_name(), O_CREAT | O_EXCL | O_RDWR, 0600, &attributes); /* LEAK: leave_queue */
    return queue < 0 ? -1 : mq_close(queue);
}

static PyObject *leave_queue(NOARGS)
{
    return done(keep_queue() < 0);
}

static PyObject *twin_queue(NOARGS)
{
    return done(keep_queue() < 0 || mq_unlink(path) < 0);
}

/* Numbers and one: the first of all objects has the number 0. */
static int kept[3][4096];
static int last;

static PyObject *leave_system_v_memory(NOARGS)
{
    last = shmget(IPC_PRIVATE, 4096, 0600); /* LEAK: leave_system_v_memory */
    kept[0][count++ % 4096] = last + 1;
    return done(last < 0);
}

static PyObject *twin_system_v_memory(NOARGS)
{
    last = shmget(IPC_PRIVATE, 4096, 0600);
    return done(last < 0 || shmctl(last, IPC_RMID, NULL) < 0);
}

static PyObject *leave_system_v_semaphores(NOARGS)
{
    last = semget(IPC_PRIVATE, 1, 0600); /* LEAK: leave_system_v_semaphores */
    kept[1][count++ % 4096] = last + 1;
    return done(last < 0);
}

static PyObject *twin_system_v_semaphores(NOARGS)
{
    last = semget(IPC_PRIVATE, 1, 0600);
    return done(last < 0 || semctl(last, 0, IPC_RMID) < 0);
}

static PyObject *leave_system_v_queue(NOARGS)
{
    last = msgget(IPC_PRIVATE, 0600); /* LEAK: leave_system_v_queue */
    kept[2][count++ % 4096] = last + 1;
    return done(last < 0);
}

static PyObject *twin_system_v_queue(NOARGS)
{
    last = msgget(IPC_PRIVATE, 0600);
    return done(last < 0 || msgctl(last, IPC_RMID, NULL) < 0);
}

/* Asked for by its key in each call; there is one. */
static PyObject *twin_system_v_key(NOARGS)
{
    last = shmget(0x5a6f6f00 ^ getpid(), 4096, IPC_CREAT | 0600);
    kept[0][0] = last + 1;
    return done(last < 0);
}

/* How many of the queues are there; their folder need not be mounted. */
static PyObject *queues(NOARGS)
{
    char name[64];
    long found = 0;
    for (unsigned at = 1; at <= count; at++) {
        snprintf(name, sizeof name, "/zoo-left-%d-%u", (int)getpid(), at);
        mqd_t queue = mq_open(name, O_RDONLY);
        found += queue >= 0;
        if (queue >= 0)
            mq_close(queue);
    }
    return PyLong_FromLong(found);
}

/* Removes what the functions above have left: it would outlive the process. */
static PyObject *remove_all(NOARGS)
{
    for (unsigned at = 0; at < 4096; at++) {
        if (kept[0][at] > 0)
            shmctl(kept[0][at] - 1, IPC_RMID, NULL);
        if (kept[1][at] > 0)
            semctl(kept[1][at] - 1, 0, IPC_RMID);
        if (kept[2][at] > 0)
            msgctl(kept[2][at] - 1, IPC_RMID, NULL);
    }
    for (; count > 0; count--) {
        snprintf(path, sizeof path, "/zoo-left-%d-%u", (int)getpid(), count);
        shm_unlink(path);
        sem_unlink(path);
        mq_unlink(path);
    }
    Py_RETURN_NONE;
}

/* Child processes. */

static PyObject *leave_forked(NOARGS)
{
    pid_t child = fork(); /* LEAK: leave_forked */
    if (child == 0)
        _exit(0);
    return done(child < 0);
}

static PyObject *twin_forked(NOARGS)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    return done(child < 0 || waitpid(child, NULL, 0) < 0);
}

/* The child does to the stack, to descriptors and to the heap what children of vfork do, and worse. */
static ZOO_FRAME void in_child(int fd)
{
    char scratch[2048];
    memset(scratch, 0x5a, sizeof scratch);
    dup2(fd, 0);
    close(fd);
    char *command[] = {"true", NULL};
    execvp("true", command);
    _exit(127);
}

static PyObject *leave_vforked(NOARGS)
{
    int fd = open("/dev/null", O_RDONLY);
    pid_t child = vfork(); /* LEAK: leave_vforked */
    if (child == 0)
        in_child(fd);
    return done(close(fd) < 0 || child < 0);
}

static PyObject *twin_vforked(NOARGS)
{
    int fd = open("/dev/null", O_RDONLY);
    pid_t child = vfork();
    if (child == 0)
        in_child(fd);
    return done(close(fd) < 0 || child < 0 || waitpid(child, NULL, 0) < 0);
}

static PyObject *leave_spawned(NOARGS)
{
    char *command[] = {"true", NULL};
    int status = posix_spawnp(NULL, "true", NULL, NULL, command, environ); /* LEAK: leave_spawned */
    return done(status != 0);
}

/* Descriptors. */

static PyObject *leave_terminals(NOARGS)
{
    int ends[2];
    int failed = openpty(&ends[0], &ends[1], NULL, NULL, NULL) < 0; /* LEAK: leave_terminals */
    return done(failed);
}

static PyObject *leave_terminal(NOARGS)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY); /* LEAK: leave_terminal */
    return done(fd < 0);
}

static PyObject *twin_terminals(NOARGS)
{
    int ends[2];
    int failed = openpty(&ends[0], &ends[1], NULL, NULL, NULL) < 0;
    return done(failed || close(ends[0]) < 0 || close(ends[1]) < 0);
}

static int keep_received(int passed)
{
    int ends[2], fd;
    char byte = 'x';
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed, sizeof(int));
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return -1;
    int sent = sendmsg(ends[0], &message, 0);
    message.msg_controllen = sizeof control;
    int received = recvmsg(ends[1], &message, 0); /* LEAK: leave_received */
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    close(ends[0]);
    close(ends[1]);
    return sent == 1 && received == 1 ? fd : -1;
}

static PyObject *leave_received(NOARGS)
{
    return done(keep_received(0) < 0);
}

static PyObject *twin_received(NOARGS)
{
    int fd = keep_received(0);
    return done(fd < 0 || close(fd) < 0);
}

static PyObject *leave_process(NOARGS)
{
    int fd = (int)syscall(SYS_pidfd_open, (long)getpid(), 0L); /* LEAK: leave_process */
    return done(fd < 0);
}

/* A stream whose memory a static holds, so that it is the descriptor that counts. */
static FILE *volatile stream;

static PyObject *leave_stream(NOARGS)
{
    stream = tmpfile(); /* LEAK: leave_stream */
    return done(stream == NULL);
}

static PyObject *twin_stream(NOARGS)
{
    FILE *file = tmpfile();
    return done(file == NULL || fclose(file) != 0);
}

/* A stream and a child process. */
static PyObject *leave_command(NOARGS)
{
    stream = popen("true", "r"); /* LEAK: leave_command */
    return done(stream == NULL);
}

static PyObject *twin_command(NOARGS)
{
    FILE *file = popen("true", "r");
    return done(file == NULL || pclose(file) < 0);
}

#define FUNCTION(name, arguments) {#name, name, arguments, NULL}

static PyMethodDef methods[] = {
    FUNCTION(leave_renamed, METH_VARARGS),
    FUNCTION(twin_renamed, METH_VARARGS),
    FUNCTION(twin_replaced, METH_VARARGS),
    FUNCTION(twin_moved_on, METH_VARARGS),
    FUNCTION(twin_made_anew, METH_VARARGS),
    FUNCTION(leave_linked, METH_VARARGS),
    FUNCTION(leave_symlink, METH_VARARGS),
    FUNCTION(twin_symlink, METH_VARARGS),
    FUNCTION(leave_fifo, METH_VARARGS),
    FUNCTION(leave_node, METH_VARARGS),
    FUNCTION(leave_folder, METH_VARARGS),
    FUNCTION(twin_folder, METH_VARARGS),
    FUNCTION(leave_socket, METH_VARARGS),
    FUNCTION(twin_socket, METH_VARARGS),
    FUNCTION(leave_by_child, METH_VARARGS),
    FUNCTION(leave_by_system_call, METH_VARARGS),
    FUNCTION(twin_by_system_call, METH_VARARGS),
    FUNCTION(leave_shared, METH_NOARGS),
    FUNCTION(twin_shared, METH_NOARGS),
    FUNCTION(leave_semaphore, METH_NOARGS),
    FUNCTION(twin_semaphore, METH_NOARGS),
    FUNCTION(leave_queue, METH_NOARGS),
    FUNCTION(twin_queue, METH_NOARGS),
    FUNCTION(leave_system_v_memory, METH_NOARGS),
    FUNCTION(twin_system_v_memory, METH_NOARGS),
    FUNCTION(leave_system_v_semaphores, METH_NOARGS),
    FUNCTION(twin_system_v_semaphores, METH_NOARGS),
    FUNCTION(leave_system_v_queue, METH_NOARGS),
    FUNCTION(twin_system_v_queue, METH_NOARGS),
    FUNCTION(twin_system_v_key, METH_NOARGS),
    FUNCTION(queues, METH_NOARGS),
    FUNCTION(remove_all, METH_NOARGS),
    FUNCTION(leave_forked, METH_NOARGS),
    FUNCTION(twin_forked, METH_NOARGS),
    FUNCTION(leave_vforked, METH_NOARGS),
    FUNCTION(twin_vforked, METH_NOARGS),
    FUNCTION(leave_spawned, METH_NOARGS),
    FUNCTION(leave_terminals, METH_NOARGS),
    FUNCTION(leave_terminal, METH_NOARGS),
    FUNCTION(twin_terminals, METH_NOARGS),
    FUNCTION(leave_received, METH_NOARGS),
    FUNCTION(twin_received, METH_NOARGS),
    FUNCTION(leave_process, METH_NOARGS),
    FUNCTION(leave_stream, METH_NOARGS),
    FUNCTION(twin_stream, METH_NOARGS),
    FUNCTION(leave_command, METH_NOARGS),
    FUNCTION(twin_command, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "zoo_left",
    .m_doc = "Functions that leave something behind beside memory, and twins that do not.",
    .m_size = -1, /* The state is C statics: one module per process. */
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_zoo_left(void)
{
    return zoo_module_create(&module);
}
