"""Calls that leak nothing: of the standard library, and of published packages; with their error paths.

Run as a script, it judges the calls of one requirement in the running interpreter and prints the reports.
"""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

#: The calls of the standard library need no package.
STANDARD = ""

#: What to install for a requirement, by the first version of CPython that it is for. Everything is named, so
#: that the same is installed everywhere for as long as it is published.
WHEELS = {
    "numpy": {(3, 9): ["numpy==2.0.2"], (3, 10): ["numpy==2.2.6"], (3, 14): ["numpy==2.3.5"]},
    "lxml": {(3, 9): ["lxml==6.1.3"]},
    "msgpack": {(3, 9): ["msgpack==1.1.2"]},
    "Pillow": {(3, 9): ["pillow==11.3.0"]},
    "pydantic": {
        (3, 9): [
            "pydantic==2.13.5",
            "pydantic-core==2.46.5",
            "annotated-types==0.7.0",
            "typing-extensions==4.16.0",
            "typing-inspection==0.4.2",
        ]
    },
    "orjson": {(3, 9): ["orjson==3.11.5"]},
    "ujson": {(3, 9): ["ujson==5.11.0"], (3, 10): ["ujson==6.1.0"]},
}
#: Those that nobody publishes for interpreters without one.
WITH_A_GIL = {"orjson"}


def caught(statement: str, exception: str) -> str:
    return f"try:\n    {statement}\nexcept {exception}:\n    pass"


#: Before 3.11 a code object gets caches at its 1,024th call (Python/ceval.c: OPCODE_CACHE_MIN_RUNS). Told from
#: a leak they are in any case, but only by many more calls.
WARM_UP = 1100

ROWS = "rows = [{'id': n, 'name': 'row %d' % n, 'ratio': n / 7, 'tags': ['a', None, True]} for n in range(20)]"
FOLDER = "import json, os\nfolder = os.path.dirname(json.__file__)"

#: The setup, the statement, and what it needs.
CALLS: list[tuple[str, str, str]] = [
    # Text and data formats.
    ("import json\n" + ROWS, "json.loads(json.dumps(rows))", STANDARD),
    ("import json", caught("json.loads('{\"a\": [1, 2,}')", "ValueError"), STANDARD),
    ("import json", caught("json.dumps({'a': object()})", "TypeError"), STANDARD),
    ("import re", "re.sub(r'(\\w+)@(\\w+)', r'\\2 at \\1', 'me@home you@work'), re.findall('[a-z]+', 'a b c')", STANDARD),
    ("import re", caught("re.compile('(unclosed')", "re.error"), STANDARD),
    ("import csv, io", "list(csv.DictReader(io.StringIO('a,b\\r\\n1,\"x, y\"\\r\\n2,z\\r\\n')))", STANDARD),
    ("import csv, io", "csv.writer(io.StringIO()).writerows([[1, 'a,b', None], [2.5, '\"', '']])", STANDARD),
    ("import csv, io", caught("list(csv.reader(io.StringIO('\"open'), strict=True))", "csv.Error"), STANDARD),
    (
        "from xml.etree import ElementTree\ntext = '<a>' + '<b c=\"1\">text</b>' * 20 + '</a>'",
        "ElementTree.tostring(ElementTree.fromstring(text)), ElementTree.fromstring(text).findall('b')",
        STANDARD,
    ),
    ("from xml.etree import ElementTree", caught("ElementTree.fromstring('<a><b></a>')", "ElementTree.ParseError"), STANDARD),
    ("import configparser", "configparser.ConfigParser().read_string('[a]\\nb = 1\\n[c]\\nd = %(b)s\\nb = 2\\n')", STANDARD),
    ("import urllib.parse", "urllib.parse.parse_qs(urllib.parse.urlsplit('http://h/p?a=1&b=%20x').query)", STANDARD),
    ("import html, textwrap", "html.unescape(html.escape('<a & b>')), textwrap.wrap('some words ' * 10, 20)", STANDARD),
    ("import base64, binascii", "base64.b64decode(base64.b64encode(b'leak' * 50)), binascii.crc32(b'abc')", STANDARD),
    ("import binascii", caught("binascii.unhexlify('abc')", "binascii.Error"), STANDARD),
    ("import struct", "struct.unpack('<IhQd4s', struct.pack('<IhQd4s', 1, -2, 3, 4.5, b'four'))", STANDARD),
    ("import struct", caught("struct.pack('<H', 70000)", "struct.error"), STANDARD),
    ("import pickle\n" + ROWS, "pickle.loads(pickle.dumps(rows, 5))", STANDARD),
    ("import pickle", caught("pickle.loads(b'\\x80\\x05]q')", "Exception"), STANDARD),
    ("import pickle", caught("pickle.dumps(lambda: 0)", "Exception"), STANDARD),
    ("import zlib\ndata = b'leaktight' * 200", "zlib.decompress(zlib.compress(data))", STANDARD),
    ("import zlib", caught("zlib.decompress(b'not zlib')", "zlib.error"), STANDARD),
    ("import bz2\ndata = b'leaktight' * 20", "bz2.decompress(bz2.compress(data, 1))", STANDARD),
    ("import hashlib, hmac", "hashlib.sha256(b'x' * 5000).hexdigest(), hmac.new(b'k', b'm', 'sha1').digest()", STANDARD),
    ("import hashlib", caught("hashlib.new('no such hash')", "ValueError"), STANDARD),
    ("import unicodedata", "unicodedata.normalize('NFKD', 'Ünï\\u00e9'), 'straße'.casefold().encode('utf-16')", STANDARD),
    ("", caught("b'\\xff\\xfe'.decode('utf-8')", "UnicodeDecodeError"), STANDARD),
    ("", caught("int('twelve')", "ValueError"), STANDARD),
    # Numbers and times.
    ("from decimal import Decimal", "(Decimal('1.1') / Decimal(7)).quantize(Decimal('0.01')), Decimal(2).sqrt()", STANDARD),
    ("import decimal", caught("decimal.Decimal(1) / decimal.Decimal(0)", "decimal.DivisionByZero"), STANDARD),
    ("from fractions import Fraction", "sum(Fraction(1, n) for n in range(1, 20))", STANDARD),
    ("import math, random\nsource = random.Random(1)", "math.fsum(source.random() for _ in range(50)), math.comb(60, 30)", STANDARD),
    ("import math", caught("math.sqrt(-1.0)", "ValueError"), STANDARD),
    (
        "from datetime import datetime, timedelta, timezone",
        "(datetime(2024, 2, 29, tzinfo=timezone.utc) + timedelta(days=1)).isoformat(), datetime.fromisoformat('2024-01-02T03:04:05')",
        STANDARD,
    ),
    ("from datetime import date", caught("date(2023, 2, 29)", "ValueError"), STANDARD),
    # Objects.
    ("import itertools", "list(itertools.groupby(itertools.chain(range(9), 'abc'), type)), list(itertools.permutations('abcd', 2))", STANDARD),
    ("import functools\n@functools.lru_cache(maxsize=16)\ndef f(n):\n    return [n]", "for n in range(40): f(n)", STANDARD),
    ("import enum\nclass Color(enum.Flag):\n    RED = 1\n    BLUE = 2", "Color.RED | Color.BLUE, Color['RED'], list(Color)", STANDARD),
    ("import enum\nclass Color(enum.Enum):\n    RED = 1", caught("Color(7)", "ValueError"), STANDARD),
    (
        "import dataclasses\n@dataclasses.dataclass(order=True)\nclass P:\n    x: int\n    y: list = dataclasses.field(default_factory=list)",
        "dataclasses.asdict(dataclasses.replace(P(1), x=2)), P(1) < P(2)",
        STANDARD,
    ),
    ("import collections", "collections.Counter('abracadabra').most_common(2), collections.deque(range(20), 5).rotate(2)", STANDARD),
    ("import copy\n" + ROWS + "\nrows.append(rows)", "copy.deepcopy(rows)", STANDARD),
    ("import heapq, bisect", "heapq.nsmallest(3, [5, 1, 4, 2, 3], key=lambda n: -n), bisect.bisect([1, 2, 3], 2)", STANDARD),
    ("import weakref\nclass A:\n    pass", "a = A(); weakref.ref(a)(), weakref.WeakSet([a]), weakref.finalize(a, len, 'x').detach()", STANDARD),
    ("import array", "memoryview(array.array('d', range(20)))[2:9].tolist(), memoryview(b'abcdef').cast('B', (2, 3)).tobytes()", STANDARD),
    ("", caught("memoryview(b'abc')[0] = 1", "TypeError"), STANDARD),
    ("def countdown(n):\n    while n:\n        yield n\n        n -= 1", "sum(countdown(20)), next(countdown(5))", STANDARD),
    ("class Temporary:\n    pass", "type('T', (Temporary,), {'m': lambda self: self})().m()", STANDARD),
    ("def fail(n):\n    return n and fail(n - 1) or {}['missing']", caught("fail(5)", "KeyError"), STANDARD),
    ("import ast", "ast.dump(ast.parse('def f(x): return [y for y in x if y]')), compile('a = 1 + 2', 'f', 'exec')", STANDARD),
    ("", caught("compile('def broken(:', 'f', 'exec')", "SyntaxError"), STANDARD),
    ("import inspect\ndef f(a, *b, c=1, **d):\n    pass", "str(inspect.signature(f)), inspect.getdoc(dict)", STANDARD),
    ("import contextvars\nv = contextvars.ContextVar('v')", "contextvars.copy_context().run(v.set, 3)", STANDARD),
    ("import ctypes\nclass S(ctypes.Structure):\n    _fields_ = [('a', ctypes.c_int), ('b', ctypes.c_double * 4)]", "bytes(S(1)), ctypes.create_string_buffer(b'abc').value", STANDARD),
    ("import ctypes\nstrlen = ctypes.CDLL(None).strlen", "strlen(b'four'), ctypes.sizeof(ctypes.c_long)", STANDARD),
    ("import ctypes\nstrlen = ctypes.CDLL(None).strlen", caught("strlen(1.5)", "ctypes.ArgumentError"), STANDARD),
    # The system.
    (
        "import sqlite3\ndb = sqlite3.connect(':memory:')\ndb.execute('create table log (n integer primary key, t text)')",
        "with db:\n    db.execute('insert into log values (?, ?)', (1, 'text'))\n    db.execute('select * from log').fetchall()\n    db.execute('delete from log')",
        STANDARD,
    ),
    ("import sqlite3\ndb = sqlite3.connect(':memory:')", caught("db.execute('select nothing from nowhere')", "sqlite3.OperationalError"), STANDARD),
    ("import socket", "a, b = socket.socketpair(); a.sendall(b'ping'); b.recv(4); a.close(); b.close()", STANDARD),
    ("import socket", caught("socket.inet_pton(socket.AF_INET, '1.2.3')", "OSError"), STANDARD),
    ("import json", "with open(json.__file__, encoding='utf-8') as file:\n    file.readline(), file.tell(), file.read()", STANDARD),
    ("", caught("open('/no/such/file')", "OSError"), STANDARD),
    (FOLDER, "os.listdir(folder), os.stat(folder), list(os.scandir(folder))", STANDARD),
    ("import mmap", "with mmap.mmap(-1, 8192) as block:\n    block[0:4] = b'abcd'; block.find(b'd')", STANDARD),
    ("import io", "io.TextIOWrapper(io.BytesIO(b'a\\nb\\n')).read(), io.BufferedReader(io.BytesIO(b'x' * 100)).peek()", STANDARD),
    ("import threading", "thread = threading.Thread(target=sorted, args=([3, 1, 2],)); thread.start(); thread.join()", STANDARD),
    ("import queue, threading", "q = queue.Queue(); q.put(1); q.get(); threading.RLock().acquire()", STANDARD),
    ("import asyncio\nasync def work():\n    return await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0, 1))", "asyncio.run(work())", STANDARD),
    ("async def fail():\n    raise LookupError('none')", caught("fail().send(None)", "LookupError"), STANDARD),
    # NumPy. Arrays made with numpy.ones, zeros or empty name their dtype: without one, these releases lose a
    # reference to the default dtype before CPython 3.13.
    ("import numpy\na = numpy.arange(12.0)", "(a.reshape(3, 4) @ a.reshape(4, 3)).sum(axis=0), a[a > 3], a[::2].copy()", "numpy"),
    ("import numpy\na = numpy.arange(12)", "a.astype('f4').astype(object).tolist(), numpy.concatenate([a, a])", "numpy"),
    ("import numpy\na = numpy.arange(12)", caught("a.reshape(5, 5)", "ValueError"), "numpy"),
    ("import numpy\na = numpy.arange(3)", caught("a + numpy.arange(4)", "ValueError"), "numpy"),
    ("import numpy", "numpy.array([[1, 2], [3, 4]], dtype='i8').tobytes(), numpy.frombuffer(b'12345678', 'u1')", "numpy"),
    ("import numpy", caught("numpy.array(['a'], dtype='f8')", "ValueError"), "numpy"),
    ("import numpy", "numpy.dtype([('a', 'i4'), ('b', 'U8')]), numpy.zeros(3, dtype=[('a', 'i4'), ('b', 'O')])['b']", "numpy"),
    ("import numpy", caught("numpy.dtype('no such type')", "TypeError"), "numpy"),
    ("import numpy\na = numpy.arange(20) % 7", "numpy.sort(a), numpy.unique(a), numpy.argsort(a), numpy.where(a > 3)", "numpy"),
    ("import numpy", "numpy.linalg.solve(numpy.eye(3) * 2, numpy.full(3, 1.0)), numpy.linalg.det(numpy.eye(3))", "numpy"),
    ("import numpy", caught("numpy.linalg.inv(numpy.full((2, 2), 1.0))", "numpy.linalg.LinAlgError"), "numpy"),
    ("import numpy\nsource = numpy.random.default_rng(1)", "source.random(20), source.normal(), source.integers(0, 9, 5), source.permutation(6)", "numpy"),
    ("import numpy", "numpy.char.upper(numpy.array(['ab', 'cd'])), numpy.datetime64('2024-02-29') + numpy.timedelta64(1, 'D')", "numpy"),
    ("import numpy", "numpy.einsum('ij,jk->ik', numpy.eye(2, 3), numpy.eye(3, 2)), numpy.fft.rfft(numpy.arange(16.0))", "numpy"),
    # lxml.
    ("from lxml import etree\ntext = '<a>' + '<b c=\"1\">text</b>' * 20 + '</a>'", "etree.tostring(etree.fromstring(text))", "lxml"),
    ("from lxml import etree\nroot = etree.fromstring('<a><b c=\"1\">x</b><b/></a>')", "root.xpath('//b[@c=$c]/text()', c='1'), root.findall('b')", "lxml"),
    ("from lxml import etree", caught("etree.fromstring('<a><b></a>')", "etree.XMLSyntaxError"), "lxml"),
    ("from lxml import etree\nroot = etree.fromstring('<a/>')", caught("root.xpath('b[')", "etree.XPathEvalError"), "lxml"),
    ("from lxml import etree", "root = etree.Element('a', c='1'); etree.SubElement(root, 'b').text = 'x'; root.attrib['d'] = '2'; len(root)", "lxml"),
    ("from lxml import html", "html.tostring(html.fromstring('<p>one<br>two<p class=x>three'))", "lxml"),
    (
        "from lxml import etree\nsheet = etree.XSLT(etree.XML('<x:stylesheet version=\"1.0\" xmlns:x=\"http://www.w3.org/1999/XSL/Transform\"><x:template match=\"/\"><r><x:value-of select=\"a\"/></r></x:template></x:stylesheet>'))\nroot = etree.XML('<a>1</a>')",
        "str(sheet(root))",
        "lxml",
    ),
    ("from lxml import etree\nimport io", "[e.tag for _, e in etree.iterparse(io.BytesIO(b'<a><b/><b/></a>'))]", "lxml"),
    # msgpack.
    ("import msgpack\n" + ROWS, "msgpack.unpackb(msgpack.packb(rows))", "msgpack"),
    ("import msgpack", "unpacker = msgpack.Unpacker(); unpacker.feed(b'\\x01\\x93\\x01\\x02\\x03'); list(unpacker)", "msgpack"),
    ("import msgpack", caught("msgpack.packb(object())", "TypeError"), "msgpack"),
    ("import msgpack", caught("msgpack.unpackb(b'\\x93\\x01')", "ValueError"), "msgpack"),
    ("import msgpack", "msgpack.packb(1 + 2j, default=lambda c: msgpack.ExtType(1, b'x')), msgpack.unpackb(b'\\xd4\\x05a')", "msgpack"),
    # Pillow.
    ("from PIL import Image", "Image.new('RGB', (32, 32), 'red').resize((16, 16)).rotate(90).convert('L').tobytes()", "Pillow"),
    (
        "import io\nfrom PIL import Image\npicture = Image.new('RGB', (32, 32), 'blue')",
        "buffer = io.BytesIO(); picture.save(buffer, 'PNG'); buffer.seek(0); Image.open(buffer).load()",
        "Pillow",
    ),
    ("import io\nfrom PIL import Image\npicture = Image.new('L', (16, 16))", "picture.save(io.BytesIO(), 'JPEG')", "Pillow"),
    ("import io\nfrom PIL import Image", caught("Image.open(io.BytesIO(b'no picture'))", "Image.UnidentifiedImageError"), "Pillow"),
    ("from PIL import Image", caught("Image.new('XYZ', (1, 1))", "ValueError"), "Pillow"),
    ("from PIL import Image, ImageDraw, ImageFilter\np = Image.new('RGB', (20, 20))", "ImageDraw.Draw(p).line((0, 0, 9, 9), fill=1); p.filter(ImageFilter.BLUR).histogram()", "Pillow"),
    # pydantic and its core.
    (
        "import pydantic\nclass User(pydantic.BaseModel):\n    name: str\n    age: int = 0\n    tags: list[str] = []",
        "User.model_validate({'name': 'a', 'age': '7', 'tags': ['x']}).model_dump()",
        "pydantic",
    ),
    ("import pydantic\nclass User(pydantic.BaseModel):\n    age: int", caught("User(age='old')", "pydantic.ValidationError"), "pydantic"),
    ("import pydantic\nadapter = pydantic.TypeAdapter(dict[str, list[int]])", "adapter.dump_json(adapter.validate_json('{\"a\": [1, 2]}'))", "pydantic"),
    ("import pydantic\nadapter = pydantic.TypeAdapter(list[int])", caught("adapter.validate_json('[1, ')", "ValueError"), "pydantic"),
    (
        "import pydantic_core\nfrom pydantic_core import core_schema\nvalidator = pydantic_core.SchemaValidator(core_schema.union_schema([core_schema.int_schema(), core_schema.str_schema()]))",
        "validator.validate_python('text'), validator.validate_python(3)",
        "pydantic",
    ),
    ("import pydantic_core\n" + ROWS, "pydantic_core.from_json(pydantic_core.to_json(rows))", "pydantic"),
    # orjson and ujson. What orjson does not know costs a reference to the dict of its type from CPython 3.12 on.
    ("import orjson\n" + ROWS, "orjson.loads(orjson.dumps(rows))", "orjson"),
    ("import orjson", caught("orjson.loads('[1, 2,')", "ValueError"), "orjson"),
    ("import orjson", caught("orjson.dumps({'a': [2**70]})", "TypeError"), "orjson"),
    ("import datetime, orjson", "orjson.dumps({'t': datetime.datetime(2024, 1, 2)}, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)", "orjson"),
    ("import ujson\n" + ROWS, "ujson.loads(ujson.dumps(rows))", "ujson"),
    ("import ujson", caught("ujson.loads('[1, 2')", "ValueError"), "ujson"),
    ("import ujson", caught("ujson.dumps({'a': {1: object}}, reject_bytes=True, default=None)", "Exception"), "ujson"),
]


def wheels(requirement: str, version: tuple[int, ...]) -> list[str]:
    """What pip is told, to install a requirement for a version of CPython."""
    first = max(first for first in WHEELS[requirement] if first <= version[:2])
    return ["--no-deps", *WHEELS[requirement][first]]


def main(requirement: str) -> None:
    """Prints, as one line of JSON each, the statement and the report of every call for that requirement."""
    import leaktight

    for setup, statement, needed in CALLS:
        if needed == requirement:
            namespace: dict[str, Any] = {"__name__": "__main__"}
            exec(setup, namespace)
            exec("def call():\n" + textwrap.indent(statement, "    "), namespace)
            for _ in range(WARM_UP if sys.version_info < (3, 11) else 0):
                namespace["call"]()
            report = leaktight.check(namespace["call"])
            # One by one, so that it is known which call a crash was in.
            print(json.dumps({"setup": setup, "statement": statement, "report": json.loads(report.to_json())}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
