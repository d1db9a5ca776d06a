import copy
import decimal
import threading
import unittest
from unittest import mock

import pytest
import zoo

CACHE = {}
CALLS = []


def lookup(key):
    return CACHE.setdefault(key, [key])


class TestObjects:
    def setup_method(self):
        self.items = [[] for _ in range(20)]

    def test_objects(self):
        zoo.twin_objects()
        assert len(self.items) == 20

    def test_dict_leaks(self):
        zoo.leak_dict()

    def test_cycle(self):
        zoo.twin_self_cycle()
        node = []
        node.append(node)

    @pytest.mark.parametrize("times", [1, 2])
    def test_argument(self, times):
        for _ in range(times):
            zoo.twin_argument([])


class Case(unittest.TestCase):
    def setUp(self):
        self.items = list(range(1000))

    def test_list(self):
        self.assertEqual(len(self.items), 1000)
        zoo.twin_malloc()

    def test_list_leaks(self):
        zoo.leak_list()

    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertLess(number, 3)

    @unittest.skip("not here")
    def test_skipped(self):
        raise AssertionError


def test_cached():
    assert lookup("key") == ["key"]


def test_mock():
    call = mock.MagicMock(return_value=3)
    assert call(1, x=2) == 3
    call.assert_called_once_with(1, x=2)


def test_copy(document):
    assert copy.deepcopy(document) == document


def test_decimal():
    assert decimal.Decimal(2).sqrt() < 2


def test_thread():
    thread = threading.Thread(target=zoo.twin_malloc)
    thread.start()
    thread.join()


def test_kept_leaks():
    CALLS.append({"when": len(CALLS)})


@pytest.mark.xfail(reason="known")
def test_expected_failure():
    zoo.leak_malloc()
    raise AssertionError


def test_sorted(document):
    assert sorted(document) == ["rows"]


def test_buffer():
    zoo.twin_lazy_buffer()
    zoo.twin_strdup()
