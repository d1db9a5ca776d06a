"""``MemoryLeakTestCase``: what calls leave behind beside memory."""

from __future__ import annotations

import pytest

# Garbage.


def test_a_cycle_is_told_with_its_types_and_its_path(holds):
    holds("""
        class Node:
            def __init__(self): self.children = []
        def tree():
            root, child = Node(), Node()
            root.children.append(child)
            child.children.append(root)
        error = failure(UncollectableGarbageError, tree)
        assert error.count == len(error.extras) >= 4 and error.fun_name == "tree"
        text = str(error)
        assert text.startswith(f"detected {error.count} uncollectable GC objects after calling 'tree' 1 time:"), text
        assert "made of: 2 Node, 2 list" in text, text
        assert "(Node.children -> list[0] -> Node.children -> list[0] -> Node)" in text, text
        passes(tree, checkers=Checkers.exclude("gcgarbage"))
        failure(UncollectableGarbageError, tree, checkers=Checkers.only("gcgarbage"))
        def line():
            root, child = Node(), Node()
            root.children.append(child)
        passes(line)
    """)


def test_paths_through_slots_closures_and_dicts(holds):
    holds("""
        class Slotted:
            __slots__ = ("callback", "unset")
        def closure():
            made = Slotted()
            made.callback = lambda: made
        assert "Slotted.callback -> function's variable made -> cell -> Slotted" in str(failure(UncollectableGarbageError, closure))
        class Entry:
            pass
        def table():
            entry = Entry()
            entry.owner = {"key": entry}
        assert "Entry.owner -> dict['key'] -> Entry" in str(failure(UncollectableGarbageError, table))
        import ctypes
        new_list = ctypes.pythonapi.PyList_New
        new_list.restype, new_list.argtypes = ctypes.py_object, [ctypes.c_ssize_t]
        def unfilled():
            made = Entry()
            made.entries = new_list(2)  # NULL twice.
            made.more = [made, made.entries]
        assert "Entry.more -> list[0] -> Entry" in str(failure(UncollectableGarbageError, unfilled))
    """)


def test_what_is_no_garbage_of_the_call(holds):
    holds("""
        def exception():
            try:
                raise ValueError
            except ValueError as error:
                kept = error
        passes(exception)
        def scalars():
            made = [1, "two", None]
            made.append(made)
        passes(scalars)
        # A cycle made once, and dropped once.
        class Node: pass
        def first_call_only():
            if not hasattr(first_call_only, "called"):
                first_call_only.called = node = Node()
                node.self = node
                del first_call_only.called
                first_call_only.called = True
        passes(first_call_only)
        # Garbage from before.
        node = Node()
        node.self = node
        gc.disable()
        del node
        passes(lambda: None, warmup_times=0)
        gc.enable()
    """)


def test_the_collector_is_left_as_it_was(holds):
    holds("""
        class Node: pass
        def cycle():
            node = Node()
            node.self = node
        gc.disable()
        gc.set_debug(gc.DEBUG_UNCOLLECTABLE)
        gc.garbage.append("mine")
        for freeze in (False, True):
            if freeze:
                gc.freeze()
            frozen = gc.get_freeze_count()
            error = failure(UncollectableGarbageError, cycle)
            assert "made of: Node" in str(error)
            passes(lambda: None)
            assert gc.get_freeze_count() == frozen
            assert not gc.isenabled() and gc.get_debug() == gc.DEBUG_UNCOLLECTABLE and gc.garbage == ["mine"]
        def raising():
            cycle()
            raise LookupError
        failure(LookupError, raising, warmup_times=0)
        assert gc.get_debug() == gc.DEBUG_UNCOLLECTABLE and gc.garbage == ["mine"]
        gc.garbage.clear()
        gc.set_debug(0)
    """)


# Resources.


def test_a_descriptor_that_stays_open(holds):
    holds("""
        kept = []
        error = failure(UnclosedFdError, lambda: kept.append(open("/dev/null")))
        assert (error.count, error.calls, error.fun_name) == (1, 1, "<lambda>")
        text = str(error)
        assert text.startswith("detected 1 unclosed file descriptor after calling '<lambda>' 1 time:\\n* "), text
        [extra] = error.extras
        assert extra.path == "/dev/null" and extra.fd in [file.fileno() for file in kept]
        assert "LEAK  <lambda>()" in text and error.report.findings[0].kind == "fd", text
        # It is closed, or replaced by the next.
        passes(lambda: open("/dev/null").close())
        box = {}
        passes(lambda: box.update(file=os.fdopen(os.open("/dev/null", os.O_RDONLY))) if box.clear() is None else 0)
        for file in kept:
            file.close()
    """)


def test_a_socket_is_told_with_its_type_and_address(holds):
    holds("""
        import socket
        kept = []
        def listen():
            kept.append(socket.create_server(("127.0.0.1", 0)))
        error = failure(UnclosedFdError, listen)
        [extra] = error.extras
        assert (extra.family, extra.type, extra.listening) == (socket.AF_INET, socket.SOCK_STREAM, True), extra
        assert extra.laddr in [end.getsockname() for end in kept] and extra.raddr == (), extra
        assert "SOCK_STREAM" in repr(error) and "TCP socket 127.0.0.1:" in str(error), error
        # Looking does not close it.
        assert kept[-1].fileno() != -1 and kept[-1].getsockname()
        passes(lambda: socket.create_server(("127.0.0.1", 0)).close())
        for end in kept:
            end.close()
    """)


def test_all_that_one_call_leaves_open_is_counted(holds):
    holds("""
        error = failure(UnclosedFdError, os.pipe)
        assert (error.count, error.calls, len(error.extras)) == (2, 1, 2)
        assert all(extra.path.startswith("pipe:") for extra in error.extras), error.extras
        assert "detected 2 unclosed file descriptors after calling 'pipe' 1 time" in str(error), error
        def closed():
            for end in os.pipe():
                os.close(end)
        passes(closed)
    """)


def test_a_descriptor_lost_in_every_third_call(holds):
    holds("""
        third = Counted(lambda: third.calls % 3 == 0 and os.open("/dev/null", os.O_RDONLY))
        error = failure(UnclosedFdError, third)
        assert (error.count, error.calls) == (1, 3), error
        assert "detected 1 unclosed file descriptor after calling 'Counted' 3 times" in str(error), error
        for once in (1, 5, 40):
            opened_once = Counted(lambda: opened_once.calls == once and os.open("/dev/null", os.O_RDONLY))
            passes(opened_once)
    """)


def test_redirected_output_is_no_leak(holds, tmp_path):
    holds(f"""
        def redirect(number, path):
            file = os.open(path, os.O_CREAT | os.O_WRONLY)
            os.dup2(file, number)
            os.close(file)
        passes(lambda: redirect(1, {str(tmp_path / "out")!r}))
        passes(lambda: redirect(2, {str(tmp_path / "err")!r}))
    """)


def test_a_python_thread_that_is_left_running(holds):
    holds("""
        stop, started = threading.Event(), []
        def start():
            started.append(threading.Thread(target=stop.wait, name="waiting"))
            started[-1].start()
        error = failure(UnclosedPythonThreadError, start)
        [extra] = error.extras
        assert (error.count, extra in started) == (1, True), error
        assert str(error).startswith("detected 1 unclosed Python thread after calling 'start' 1 time:"), error
        assert "Python thread `waiting`" in str(error), error
        stop.set()
        for thread in started:
            thread.join()
        def joined():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        passes(joined)
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            passes(lambda: pool.submit(int).result())
    """)


def test_native_threads_that_are_left_running_or_never_joined(holds):
    holds("""
        error = failure(UnclosedNativeThreadError, zoo.thread_left_running)
        [extra] = error.extras
        assert error.count == 1 and os.path.exists(f"/proc/self/task/{extra.id}"), error
        text = str(error)
        assert text.startswith("detected 1 unclosed native C thread after calling 'thread_left_running' 1 time:"), text
        assert "running" in text and "zoo_threads.c" in text, text
        error = failure(UnclosedNativeThreadError, zoo.thread_never_joined)
        assert error.count == 1 and "ended, never joined" in str(error), error
        passes(zoo.twin_thread_joined)
        passes(zoo.twin_thread_detached)
        passes(zoo.twin_lazy_pool)
        # The threads that were left waiting need not be waited for.
        sys.stdout.flush()
        os._exit(0)
    """)


def test_checkers_switch_the_resources(holds):
    holds("""
        stop = threading.Event()
        def both():
            threading.Thread(target=stop.wait, daemon=True).start()
            os.dup(0)
        only = lambda *names: {"checkers": Checkers.only(*names), "times": 64}
        failure(UnclosedPythonThreadError, both, **only("fds", "py_threads"))
        failure(UnclosedFdError, both, **only("fds", "c_threads"))
        passes(both, **only("c_threads", "gcgarbage", "handles", "refcounts"))
        stop.set()
        sys.stdout.flush()
        os._exit(0)
    """)


def test_references_that_are_taken_or_released_once_too_often(holds, request):
    if request.node.callspec.params["holds"].is_free_threaded:
        pytest.skip("no references are counted without a GIL")
    holds("""
        import ctypes
        from leaktight import ReferenceLeakError
        key, rows, kept = "time" + str(1), [["row"]], []
        def counts(name):
            function = getattr(ctypes.pythonapi, name)
            function.argtypes, function.restype = [ctypes.py_object], None
            return function
        take, release = counts("Py_IncRef"), counts("Py_DecRef")
        error = failure(ReferenceLeakError, lambda: take(key), times=64)
        assert "1 reference to the `str` 'time1'" in str(error), error
        error = failure(ReferenceLeakError, lambda: release(rows[0]), times=64)
        assert "releases 1 reference" in str(error) and rows == [["row"]], error
        passes(lambda: take(key), times=64, checkers=Checkers.exclude("refcounts"))
        passes(lambda: (take(rows[0]), release(rows[0])), times=64)
    """)


def test_resources_come_before_garbage_and_garbage_before_memory(holds):
    holds("""
        class Node: pass
        def all_at_once():
            node = Node()
            node.self = node
            zoo.leak_malloc()
            os.dup(0)
        failure(UnclosedFdError, all_at_once)
        failure(UncollectableGarbageError, all_at_once, checkers=Checkers.exclude("fds"))
        failure(MemoryLeakError, all_at_once, checkers=Checkers.exclude("fds", "gcgarbage"))
    """)


def test_what_outlives_the_process_is_told_by_kind(holds):
    holds("""
        import itertools, subprocess, tempfile
        from multiprocessing import shared_memory
        calls, folder, children = itertools.count(), tempfile.mkdtemp(), []
        def file():
            os.symlink("nowhere", os.path.join(folder, str(next(calls))))
        def child():
            children.append(subprocess.Popen(["true"]))
        def memory():
            shared_memory.SharedMemory(create=True, size=16).close()
        only = lambda *names: {"checkers": Checkers.only(*names), "times": 64}
        error = failure(UnremovedFileError, file, **only("files"))
        assert "detected 1 unremoved temporary file after calling 'file' 1 time" in str(error), error
        assert folder in str(error.extras), error
        passes(file, **only("children"))
        error = failure(UnreapedChildError, child, **only("children"))
        assert "detected 1 unreaped child process" in str(error), error
        error = failure(UnremovedIpcError, memory, **only("files"))
        assert "shared memory /dev/shm/psm_" in str(error.extras), error
    """)
