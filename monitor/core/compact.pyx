# cython: language_level=3, binding=False, embedsignature=False
"""What a window holds by the hundred thousand, laid out as in C: numbers as numbers, SIDs as the bytes they stand for.

Optional, as all that is compiled. ``twin`` puts each of these types in the place of the struct that it is a twin of: the
same fields with the same values, and the methods that are written there, in half the memory and in fewer lines of it. A
whole number of Python's takes 32 bytes and lies somewhere else, the text of a SID 96; here they take eight and
seventeen. What is read of them is made anew each time: nothing here is known by its identity.

``Table`` is a ``parted.Parted`` by SIDs, as far as the window needs one. Other texts go into a dictionary beside it.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from types import FunctionType

cdef extern from "Python.h":
    unsigned char* bytes_of "(unsigned char *) PyBytes_AS_STRING" (object)
    object PyUnicode_New(Py_ssize_t, uint32_t)
    unsigned char* PyUnicode_1BYTE_DATA(object)
    bint PyUnicode_CheckExact(object)
    bint PyUnicode_IS_COMPACT_ASCII(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    Py_ssize_t Py_REFCNT(PyObject*)
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1

cdef extern from *:
    """
    static int
    add_to_type(PyObject *type, PyObject *name, PyObject *value) {
        int done = PyDict_SetItem(((PyTypeObject *) type)->tp_dict, name, value);
        PyType_Modified((PyTypeObject *) type);
        return done;
    }
    """
    int add_to_type(object, object, object) except -1
    const unsigned int BUILT_FROM_ "BUILT_FROM"

BUILT_FROM = BUILT_FROM_  # The CRC-32 of this file and of the one beside it, when it was compiled.

# --------------------------------------------------------------------------- SIDs

cdef enum:
    KINDS = 5  # At most seven, which three bits can say.
    DIGITS_AT = 2

cdef const char* PREFIXES = b"??CACFREWTFN"  # By kind, from 1 on.
cdef unsigned char DIGIT[256]  # What a digit stands for; 255: it is none.
cdef const char* DIGITS = b"0123456789abcdef"


cdef void _fill_digits() noexcept:
    cdef int at
    memset(DIGIT, 0xFF, 256)
    for at in range(16):
        DIGIT[<unsigned char> DIGITS[at]] = at


_fill_digits()


cdef inline int _kind_of(const unsigned char* text) noexcept nogil:
    """Which prefix a text has; 0: none of those."""
    cdef int kind
    for kind in range(1, KINDS + 1):
        if text[0] == PREFIXES[2 * kind] and text[1] == PREFIXES[2 * kind + 1]:
            return kind
    return 0


cdef bint read_digits(const unsigned char* text, unsigned char* out) noexcept nogil:
    """The ``DIGITS_BYTES`` that 32 digits stand for; False: they are none."""
    cdef unsigned char wrong = 0, high, low
    cdef int at
    for at in range(DIGITS_BYTES):
        high, low = DIGIT[text[2 * at]], DIGIT[text[2 * at + 1]]
        wrong |= high | low
        out[at] = high << 4 | low
    return not wrong & 0xF0


cdef bint read_key(const unsigned char* text, SidKey* key) noexcept nogil:
    """The key that 34 characters are; False: they are no usual SID."""
    cdef unsigned char digits[DIGITS_BYTES]
    key.kind = _kind_of(text)
    if key.kind and not read_digits(text + DIGITS_AT, digits):
        key.kind = 0
    memcpy(&key.high, digits, 8)
    memcpy(&key.low, digits + 8, 8)
    return key.kind != 0


cdef int key_of(object text, SidKey* key) except -1:
    """The key that a text is, and its kind; 0: it is no usual SID."""
    key.kind = 0
    if (
        PyUnicode_CheckExact(text)
        and PyUnicode_IS_COMPACT_ASCII(text)
        and PyUnicode_GET_LENGTH(text) == SID_CHARACTERS
    ):
        read_key(PyUnicode_1BYTE_DATA(text), key)
    return key.kind


cdef object text_of(SidKey* key):
    """The text that a key was made of."""
    cdef unsigned char written[MEMBER_BYTES]
    cdef unsigned char* out
    cdef int at
    if not key.kind:
        return <object> <PyObject*> <uintptr_t> key.high
    _write_member(key, written)
    text = PyUnicode_New(SID_CHARACTERS, 127)
    out = PyUnicode_1BYTE_DATA(text)
    memcpy(out, PREFIXES + 2 * key.kind, DIGITS_AT)
    for at in range(1, MEMBER_BYTES):
        out[2 * at] = DIGITS[written[at] >> 4]
        out[2 * at + 1] = DIGITS[written[at] & 15]
    return text


cdef inline void _write_member(SidKey* key, unsigned char* out) noexcept:
    out[0] = key.kind
    memcpy(out + 1, &key.high, 8)
    memcpy(out + 9, &key.low, 8)


cdef int _keep(SidKey* key, object text) except -1:
    """Have a key of a text, whatever it is: a text that is no usual SID is held itself. Let go of by ``_let_go``."""
    cdef SidKey new
    if not key_of(text, &new):
        if not isinstance(text, str):
            raise TypeError("no text")
        Py_INCREF(text)
        new.high, new.low = <uintptr_t> <PyObject*> text, 0
    _let_go(key)
    key[0] = new
    return 0


cdef int _let_go(SidKey* key) except -1:
    if not key.kind:
        Py_XDECREF(<PyObject*> <uintptr_t> key.high)
    return 0


cdef bint is_same(SidKey* key, object text) except -1:
    """Whether a key is of this text."""
    cdef SidKey other
    if key_of(text, &other):
        return are_same(key, &other)
    return not key.kind and <object> <PyObject*> <uintptr_t> key.high == text

# --------------------------------------------------------------------------- what is open, by SID

cdef enum:
    WHOLE_MAX = 8192  # As ``parted`` has it.


cdef uint64_t _SEED = <uint64_t> <int64_t> hash("compact")  # Python's own, another one in each process.


cdef inline uint64_t _hash(SidKey* key) noexcept nogil:
    """Where a key stands: nobody can make up SIDs that all stand in one place."""
    cdef uint64_t mixed = (key.low ^ _SEED ^ key.kind ^ (key.high >> 32 | key.high << 32)) * 0x9E3779B97F4A7C15u
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u


cdef inline Part* _part_of(Table table, uint64_t hashed) noexcept nogil:
    return &table.parts[hashed >> 56] if table.count > 1 else table.parts


cdef inline Entry* _entry_in(Part* part, SidKey* key, uint64_t hashed) noexcept nogil:
    """Where a key stands; NULL: nowhere."""
    cdef uint32_t at, slot
    cdef Entry* entry
    if not part.room:
        return NULL
    at = <uint32_t> (hashed >> 24) & part.mask
    while True:
        slot = part.slots[at]
        if slot == 0:
            return NULL
        entry = &part.entries[slot - 1]
        if entry.low == key.low and entry.high == key.high and (entry.value & 7) == key.kind:
            return entry
        at = (at + 1) & part.mask


cdef inline PyObject* _held(Entry* entry) noexcept nogil:
    return <PyObject*> (entry.value & ~<uintptr_t> 7)


cdef inline SidKey _key_at(Entry* entry) noexcept nogil:
    cdef SidKey key
    key.high, key.low, key.kind = entry.high, entry.low, entry.value & 7
    return key


cdef object _item_at(Entry* entry):
    cdef SidKey key = _key_at(entry)
    return text_of(&key), <object> _held(entry)


cdef void _place(Part* part, uint32_t number, uint64_t hashed) noexcept nogil:
    cdef uint32_t at = <uint32_t> (hashed >> 24) & part.mask
    while part.slots[at]:
        at = (at + 1) & part.mask
    part.slots[at] = number + 1


cdef int _make_room(Part* part) except -1:
    """Close the gaps; where there are few, have more room by an eighth."""
    cdef uint32_t number, kept = 0, room = part.room, size = part.mask + 1
    cdef Entry* entries
    cdef uint32_t* slots
    cdef SidKey key
    if part.live >= room - (room >> 4):
        room = room + (room >> 3) if room >= 8 else 8
        entries = <Entry*> realloc(part.entries, room * sizeof(Entry))
        if entries is NULL:
            raise MemoryError
        part.entries = entries
    if part.slots is NULL or room > size - (size >> 3):
        size = 16 if part.slots is NULL else size << 1
        slots = <uint32_t*> calloc(size, sizeof(uint32_t))
        if slots is NULL:
            raise MemoryError
        free(part.slots)
        part.slots, part.mask = slots, size - 1
    else:
        memset(part.slots, 0, size * sizeof(uint32_t))
    for number in range(part.used):
        if part.entries[number].value:
            part.entries[kept] = part.entries[number]
            key = _key_at(&part.entries[kept])
            _place(part, kept, _hash(&key))
            kept += 1
    part.used, part.room = kept, room
    return 0


cdef int _add(Part* part, SidKey* key, uint64_t hashed, PyObject* value) except -1:
    """Put what was not there; the reference to the value is the table's from now on."""
    cdef Entry* entry
    if part.used == part.room:
        _make_room(part)
    entry = &part.entries[part.used]
    entry.high, entry.low, entry.value = key.high, key.low, <uintptr_t> value | key.kind
    _place(part, part.used, hashed)
    part.used += 1
    part.live += 1
    return 0


cdef PyObject* found_by(Table table, SidKey* key) noexcept:
    """What is under a key, borrowed; NULL: nothing."""
    cdef uint64_t hashed = _hash(key)
    cdef Entry* entry = _entry_in(_part_of(table, hashed), key, hashed)
    return NULL if entry is NULL else _held(entry)


cdef PyObject* found_in(Table table, object text) except? NULL:
    """What is under a text, borrowed; NULL: nothing."""
    cdef SidKey key
    if key_of(text, &key):
        return found_by(table, &key)
    return PyDict_GetItemWithError(table.odd, text) if table.odd is not None else NULL


cdef int put_by(Table table, SidKey* key, object value) except -1:
    """Put a value under a key."""
    cdef uint64_t hashed = _hash(key)
    cdef Part* part = _part_of(table, hashed)
    cdef Entry* entry = _entry_in(part, key, hashed)
    cdef PyObject* before
    Py_INCREF(value)
    if entry is not NULL:
        before = _held(entry)
        entry.value = <uintptr_t> <PyObject*> value | key.kind
        Py_XDECREF(before)
        return 0
    _add(part, key, hashed, <PyObject*> value)
    if part.live > WHOLE_MAX and table.count == 1:
        table.divide()
    return 0


cdef class Table:
    """Values by SID: one part, and from so many entries on ``PARTED`` of them. As ``parted.Parted``."""

    def __cinit__(self):
        self.parts = <Part*> calloc(1, sizeof(Part))
        if self.parts is NULL:
            raise MemoryError
        self.count = 1

    def __dealloc__(self):
        cdef uint32_t at
        if self.parts is not NULL:
            for at in range(self.count):
                _empty(&self.parts[at])
            free(self.parts)

    def __sizeof__(self):
        """With what it lies in, without what is in it."""
        cdef uint32_t at
        cdef Py_ssize_t size = type(self).__basicsize__ + self.count * sizeof(Part)
        for at in range(self.count):
            size += self.parts[at].room * sizeof(Entry)
            if self.parts[at].slots is not NULL:
                size += (self.parts[at].mask + 1) * sizeof(uint32_t)
        return size

    def __len__(self):
        cdef uint32_t at
        cdef Py_ssize_t live = 0 if self.odd is None else len(self.odd)
        for at in range(self.count):
            live += self.parts[at].live
        return live

    def __bool__(self):
        return not is_empty(self)

    def __iter__(self):
        return iter([key for key, _ in self.items()])

    def __contains__(self, text):
        return found_in(self, text) is not NULL

    def __getitem__(self, text):
        cdef PyObject* found = found_in(self, text)
        if found is NULL:
            raise KeyError(text)
        return <object> found

    def get(self, text):
        """What is under a text; None where nothing is."""
        cdef PyObject* found = found_in(self, text)
        return None if found is NULL else <object> found

    def __setitem__(self, text, value):
        cdef SidKey key
        if key_of(text, &key):
            put_by(self, &key, value)
        else:
            if self.odd is None:
                self.odd = {}
            self.odd[text] = value

    def __delitem__(self, text):
        self.pop(text)

    def pop(self, text):
        """Take out what is under a text. Raises KeyError where nothing is."""
        cdef SidKey key
        cdef Entry* entry
        cdef Part* part
        cdef uint64_t hashed
        if not key_of(text, &key):
            if self.odd is None:
                raise KeyError(text)
            return self.odd.pop(text)
        hashed = _hash(&key)
        part = _part_of(self, hashed)
        entry = _entry_in(part, &key, hashed)
        if entry is NULL:
            raise KeyError(text)
        return _taken(part, entry)

    def popitem(self):
        """Take out any one, as `dict` does: for those who empty it."""
        cdef uint32_t at
        cdef Part* part
        if self.odd:
            return self.odd.popitem()
        for at in range(self.count):
            part = &self.parts[at]
            while part.used:
                part.used -= 1
                if part.entries[part.used].value:
                    item = _item_at(&part.entries[part.used])
                    _taken(part, &part.entries[part.used])
                    return item
            if part.room:
                _empty(part)  # Its slots say where something was.
        raise KeyError("it is empty")

    def values(self):
        """Everything in it, in the order in which it came as long as it is in one part."""
        cdef uint32_t at
        found = []
        for at in range(self.count):
            found += self.values_of(at)
        return iter(found)

    def items(self):
        """Everything in it with its texts."""
        cdef uint32_t at
        found = []
        for at in range(self.count):
            found += self.items_of(at)
        return iter(found)

    def put_all(self, texts, value):
        """Put the same under several texts."""
        for text in texts:
            self[text] = value

    @property
    def parts_count(self):
        """In how many parts it lies."""
        return self.count

    def values_of(self, uint32_t part):
        """What is in one part, in the order in which it came."""
        cdef uint32_t number
        found = []
        for number in range(self.parts[part].used):
            if self.parts[part].entries[number].value:
                found.append(<object> _held(&self.parts[part].entries[number]))
        if part == 0 and self.odd is not None:
            found += self.odd.values()
        return found

    def items_of(self, uint32_t part):
        """The same with its texts."""
        cdef uint32_t number
        found = []
        for number in range(self.parts[part].used):
            if self.parts[part].entries[number].value:
                found.append(_item_at(&self.parts[part].entries[number]))
        if part == 0 and self.odd is not None:
            found += self.odd.items()
        return found

    def newest_of(self, uint32_t part, Py_ssize_t most):
        """The last that came into one part, at most so many, the newest first."""
        cdef Py_ssize_t number = self.parts[part].used
        found = []
        while number > 0 and len(found) < most:
            number -= 1
            if self.parts[part].entries[number].value:
                found.append(<object> _held(&self.parts[part].entries[number]))
        return found

    def bulk(self):
        """What of it is to be emptied for good."""
        return (self,)

    def divide(self):
        """Go on with ``PARTED`` parts, of which each grows in a moment."""
        cdef Part whole = self.parts[0]
        cdef Part* parts = <Part*> calloc(PARTED, sizeof(Part))
        cdef uint32_t number
        cdef uint64_t hashed
        cdef SidKey key
        if parts is NULL:
            raise MemoryError
        for number in range(whole.used):
            if whole.entries[number].value:
                key = _key_at(&whole.entries[number])
                hashed = _hash(&key)
                _add(&parts[hashed >> 56], &key, hashed, _held(&whole.entries[number]))
        free(whole.entries)
        free(whole.slots)
        free(self.parts)
        self.parts, self.count = parts, PARTED


cdef object _taken(Part* part, Entry* entry):
    """What an entry holds, which leaves the table."""
    cdef PyObject* held = _held(entry)
    entry.value = 0
    part.live -= 1
    value = <object> held
    Py_XDECREF(held)
    return value


cdef void _empty(Part* part):
    cdef uint32_t number
    cdef Entry* entries = part.entries
    cdef uint32_t used = part.used
    free(part.slots)
    memset(part, 0, sizeof(Part))
    for number in range(used):
        if entries[number].value:
            Py_XDECREF(_held(&entries[number]))
    free(entries)


cdef bint is_empty(Table table) noexcept:
    """Whether nothing is in it."""
    cdef uint32_t at
    for at in range(table.count):
        if table.parts[at].live:
            return False
    return not table.odd

# --------------------------------------------------------------------------- bytes that grow


cdef int grow(PyObject** place, const unsigned char* more, Py_ssize_t size) except -1:
    """Bytes with some more behind them: the same ones, grown where they are, if nobody else holds them."""
    cdef PyObject* before_ = place[0]
    cdef Py_ssize_t before = PyBytes_GET_SIZE(<object> before_)
    if Py_REFCNT(before_) == 1 and before > 1:  # Those of no or one byte are everybody's.
        _PyBytes_Resize(place, before + size)
    else:
        both = PyBytes_FromStringAndSize(NULL, before + size)
        memcpy(bytes_of(both), bytes_of(<object> before_), before)
        Py_INCREF(both)
        place[0] = <PyObject*> both
        Py_XDECREF(before_)
    memcpy(bytes_of(<object> place[0]) + before, more, size)
    return 0


cdef inline int _set_bytes(PyObject** place, bytes value) except -1:
    cdef PyObject* before = place[0]
    if value is None:
        raise TypeError("no bytes")
    Py_INCREF(value)
    place[0] = <PyObject*> value
    Py_XDECREF(before)
    return 0

# --------------------------------------------------------------------------- digests, as ``conversation`` makes them

cdef uint32_t CRC_32[256]
cdef uint16_t CRC_HQX[256]


cdef void _fill_tables() noexcept:
    cdef uint32_t at, long_
    cdef uint16_t short_
    for at in range(256):
        long_ = at
        short_ = <uint16_t> (at << 8)
        for _ in range(8):
            long_ = (long_ >> 1) ^ (0xEDB88320u if long_ & 1 else 0)
            short_ = <uint16_t> ((short_ << 1) ^ (0x1021 if short_ & 0x8000 else 0))
        CRC_32[at] = long_
        CRC_HQX[at] = short_


_fill_tables()


cdef void write_digest(const unsigned char* kept, Py_ssize_t size, unsigned char* out) noexcept:
    """The digest of an id as it is kept, without the letter in front: ``conversation.digest_of``."""
    cdef uint32_t long_ = 0xFFFFFFFFu
    cdef uint16_t short_ = 0
    cdef Py_ssize_t at
    for at in range(size):
        long_ = (long_ >> 8) ^ CRC_32[(long_ ^ kept[at]) & 0xFF]
        short_ = <uint16_t> ((short_ << 8) ^ CRC_HQX[((short_ >> 8) ^ kept[at]) & 0xFF])
    long_ = ~long_
    out[0], out[1], out[2], out[3] = long_ >> 24, (long_ >> 16) & 0xFF, (long_ >> 8) & 0xFF, long_ & 0xFF
    out[4], out[5] = short_ >> 8, short_ & 0xFF


cdef Py_ssize_t _digest_in(const unsigned char* ids, Py_ssize_t size, const unsigned char* digest) noexcept:
    """Where a digest stands among others; -1: it does not."""
    cdef Py_ssize_t at
    for at in range(0, size, DIGEST_BYTES):
        if memcmp(ids + at, digest, DIGEST_BYTES) == 0:
            return at
    return -1


cdef bint has_had(Conversation conversation, const unsigned char* digest) noexcept:
    """``Conversation.has_had``."""
    cdef const unsigned char* packed
    cdef unsigned char other[DIGEST_BYTES]
    cdef Py_ssize_t at, ids
    if _digest_in(bytes_of(<object> conversation._ids), PyBytes_GET_SIZE(<object> conversation._ids), digest) >= 0:
        return True
    if PyBytes_GET_SIZE(conversation.packed):
        packed = bytes_of(conversation.packed) + PACKED_HEAD_BYTES
        ids = packed[-2] << 8 | packed[-1]  # ``conversation``: so many digests,
        if _digest_in(packed, ids * DIGEST_BYTES, digest) >= 0:
            return True
        packed += ids * DIGEST_BYTES
        ids = packed[0] << 8 | packed[1]  # and ``packing``: the digits of so many others.
        for at in range(ids):
            write_digest(packed + 2 + at * DIGITS_BYTES, DIGITS_BYTES, other)
            if memcmp(other, digest, DIGEST_BYTES) == 0:
                return True
    return False


def digests_of(bytes digits not None):
    """``conversation.plainly_digests_of``."""
    cdef Py_ssize_t at, count = PyBytes_GET_SIZE(digits) // DIGITS_BYTES
    digests = PyBytes_FromStringAndSize(NULL, count * DIGEST_BYTES)
    for at in range(count):
        write_digest(bytes_of(digits) + at * DIGITS_BYTES, DIGITS_BYTES, bytes_of(digests) + at * DIGEST_BYTES)
    return digests


def without(bytes ids not None, bytes gone not None):
    """``conversation.plainly_without``."""
    cdef Py_ssize_t at, found, size = PyBytes_GET_SIZE(ids), left = 0, to_go = PyBytes_GET_SIZE(gone)
    kept = PyBytes_FromStringAndSize(NULL, size)
    still = PyBytes_FromStringAndSize(<const char*> bytes_of(gone), to_go)
    for at in range(0, size, DIGEST_BYTES):
        found = _digest_in(bytes_of(still), to_go, bytes_of(ids) + at)
        if found < 0:
            memcpy(bytes_of(kept) + left, bytes_of(ids) + at, DIGEST_BYTES)
            left += DIGEST_BYTES
        else:  # The last one comes into its place.
            to_go -= DIGEST_BYTES
            memcpy(bytes_of(still) + found, bytes_of(still) + to_go, DIGEST_BYTES)
    return kept[:left]

# --------------------------------------------------------------------------- the twins, each of the struct of its name


@cython.no_gc
cdef class Birth:
    def __init__(self, int64_t offset, int64_t arrived_ms, int64_t beside_offset, int64_t beside_ms, bint open=True):
        self.offset, self.arrived_ms = offset, arrived_ms
        self.beside_offset, self.beside_ms, self.open = beside_offset, beside_ms, open

    def _all(self):
        return self.offset, self.arrived_ms, self.beside_offset, self.beside_ms, self.open

    def __eq__(self, other):
        return self._all() == (<Birth> other)._all() if type(other) is Birth else NotImplemented

    def __lt__(self, other):
        return self._all() < (<Birth> other)._all() if type(other) is Birth else NotImplemented


@cython.no_gc
cdef class Seen:
    def __init__(self, sid, int64_t arrived_ms, int64_t offset, int32_t index):
        _keep(&self._sid, sid)
        self.arrived_ms, self.offset, self.index = arrived_ms, offset, index

    def __dealloc__(self):
        _let_go(&self._sid)

    @property
    def sid(self):
        return text_of(&self._sid)

    def _all(self):
        return self.sid, self.arrived_ms, self.offset, self.index

    def __eq__(self, other):
        return self._all() == (<Seen> other)._all() if type(other) is Seen else NotImplemented

    def __hash__(self):
        return hash(self._all())


@cython.no_gc
cdef class NamedRoom:
    def __init__(self, name, conference, int64_t first_ms, end_ms):
        _keep(&self._name, name)
        _keep(&self._conference, conference)
        self.first_ms, self.end_ms = first_ms, end_ms

    def __dealloc__(self):
        _let_go(&self._name)
        _let_go(&self._conference)

    @property
    def name(self):
        return text_of(&self._name)

    @property
    def conference(self):
        return text_of(&self._conference)

    @property
    def end_ms(self):
        return None if self._end_ms == INT64_MIN else self._end_ms

    @end_ms.setter
    def end_ms(self, value):
        self._end_ms = INT64_MIN if value is None else value


@cython.no_gc
cdef class Seldom:
    """What few conversations have anything of."""

    def __cinit__(self):
        self.told_late = b""


cdef inline tuple _several(object held):
    """What is held of things of which there is mostly one, or none."""
    return () if held is None else <tuple> held if type(held) is tuple else (held,)


cdef inline object _as_held(tuple several):
    return None if not several else several[0] if len(several) == 1 else several


cdef int add_member(Conversation conversation, SidKey* key) except -1:
    """Have one more member."""
    cdef Py_ssize_t before
    held = conversation._members
    if type(held) is bytes:
        before = PyBytes_GET_SIZE(held)
        more = PyBytes_FromStringAndSize(NULL, before + MEMBER_BYTES)
        memcpy(bytes_of(more), bytes_of(held), before)
        _write_member(key, bytes_of(more) + before)
        conversation._members = more
    else:
        conversation._members = (*held, text_of(key))
    return 0


@cython.no_gc
cdef class Conversation:
    def __cinit__(self):
        _set_bytes(&self._evidence, b"")
        _set_bytes(&self._properties, b"")
        _set_bytes(&self._ids, b"")
        self._members = self.packed = self.again = b""

    def __init__(
        self, account, members, birth, int64_t last_ms, int64_t bucket, bint truncated, evidence=b"", int32_t kept=0,
        properties=b"", int32_t properties_kept=0, told_late=b"", packed=b"", bint cold=False, ids=b"", recordings=(),
        suspects=(), claims=None, rooms=(), called=None, bint by_name=False, relevant=None, focus=None,
        bint waiting=True, bint open=True, int32_t epoch=0, int32_t conferences=0, again=b"", guests=None, notes=None,
        int32_t place=0, int32_t swept=0,
    ):
        self.account, self.members, self.birth, self.last_ms, self.bucket = account, members, birth, last_ms, bucket
        self.truncated, self.evidence, self.kept, self.properties = truncated, evidence, kept, properties
        self.properties_kept, self.told_late, self.packed, self.cold = properties_kept, told_late, packed, cold
        self.ids, self.recordings, self.suspects, self.claims = ids, recordings, suspects, claims
        self.rooms, self.called, self.by_name, self.focus = rooms, called, by_name, focus
        self.relevant = _RELEVANT if relevant is None else relevant
        self.waiting, self.open, self.epoch, self.conferences = waiting, open, epoch, conferences
        self.again, self.guests, self.notes, self.place, self.swept = again, guests, notes, place, swept

    def __dealloc__(self):
        Py_XDECREF(self._evidence)
        Py_XDECREF(self._properties)
        Py_XDECREF(self._ids)

    @property
    def members(self):
        cdef Py_ssize_t at
        cdef SidKey key
        cdef const unsigned char* written
        held = self._members
        if type(held) is tuple:
            return held
        members = []
        for at in range(0, PyBytes_GET_SIZE(held), MEMBER_BYTES):
            written = bytes_of(held) + at
            key.kind = written[0]
            memcpy(&key.high, written + 1, 8)
            memcpy(&key.low, written + 9, 8)
            members.append(text_of(&key))
        return tuple(members)

    @members.setter
    def members(self, tuple members not None):
        cdef SidKey key
        cdef Py_ssize_t at = 0
        held = PyBytes_FromStringAndSize(NULL, len(members) * MEMBER_BYTES)
        for member in members:
            if not key_of(member, &key):
                self._members = members
                return
            _write_member(&key, bytes_of(held) + at)
            at += MEMBER_BYTES
        self._members = held

    def add_member(self, text):
        """Have one more member."""
        cdef SidKey key
        if type(self._members) is bytes and key_of(text, &key):
            add_member(self, &key)
        else:
            self.members = (*self.members, text)

    def own(self, text):
        """The text itself: none is held for the members."""
        return text

    def has_had(self, bytes digest not None):
        """Whether an event with this digest has come."""
        return PyBytes_GET_SIZE(digest) == DIGEST_BYTES and has_had(self, bytes_of(digest))

    def room(self, name, conference):
        """A conference of it under a name; of those it has few."""
        for each in _several(self._rooms):
            if is_same(&(<NamedRoom> each)._conference, conference) and is_same(&(<NamedRoom> each)._name, name):
                return each
        return None

    @property
    def recordings(self):
        return _several(self._recordings)

    @recordings.setter
    def recordings(self, tuple value not None):
        self._recordings = _as_held(value)

    @property
    def suspects(self):
        return _several(self._suspects)

    @suspects.setter
    def suspects(self, tuple value not None):
        self._suspects = _as_held(value)

    @property
    def rooms(self):
        return _several(self._rooms)

    @rooms.setter
    def rooms(self, tuple value not None):
        self._rooms = _as_held(value)

    @property
    def evidence(self):
        return <object> self._evidence

    @evidence.setter
    def evidence(self, bytes value):
        _set_bytes(&self._evidence, value)

    @property
    def properties(self):
        return <object> self._properties

    @properties.setter
    def properties(self, bytes value):
        _set_bytes(&self._properties, value)

    @property
    def ids(self):
        return <object> self._ids

    @ids.setter
    def ids(self, bytes value):
        _set_bytes(&self._ids, value)

    @property
    def told_late(self):
        return b"" if self._seldom is None else self._seldom.told_late

    @told_late.setter
    def told_late(self, value):
        if value or self._seldom is not None:
            _seldom_of(self).told_late = value

    @property
    def claims(self):
        return None if self._seldom is None else self._seldom.claims

    @claims.setter
    def claims(self, value):
        if value is not None or self._seldom is not None:
            _seldom_of(self).claims = value

    @property
    def called(self):
        return None if self._seldom is None else self._seldom.called

    @called.setter
    def called(self, value):
        if value is not None or self._seldom is not None:
            _seldom_of(self).called = value

    @property
    def guests(self):
        return None if self._seldom is None else self._seldom.guests

    @guests.setter
    def guests(self, value):
        if value is not None or self._seldom is not None:
            _seldom_of(self).guests = value

    @property
    def notes(self):
        return None if self._seldom is None else self._seldom.notes

    @notes.setter
    def notes(self, value):
        if value is not None or self._seldom is not None:
            _seldom_of(self).notes = value

    @property
    def truncated(self):
        return self._truncated != 0

    @truncated.setter
    def truncated(self, bint value):
        self._truncated = value

    @property
    def cold(self):
        return self._cold != 0

    @cold.setter
    def cold(self, bint value):
        self._cold = value

    @property
    def by_name(self):
        return self._by_name != 0

    @by_name.setter
    def by_name(self, bint value):
        self._by_name = value

    @property
    def waiting(self):
        return self._waiting != 0

    @waiting.setter
    def waiting(self, bint value):
        self._waiting = value

    @property
    def open(self):
        return self._open != 0

    @open.setter
    def open(self, bint value):
        self._open = value


cdef Seldom _seldom_of(Conversation conversation):
    if conversation._seldom is None:
        conversation._seldom = Seldom()
    return conversation._seldom


cdef uint16_t _RELEVANT = 0  # The kinds of facts that are relevant as long as nothing else is known.
_TWINS = {kind.__name__: kind for kind in (Birth, Seen, NamedRoom, Conversation)}


def twin(struct):
    """The type in the place of a struct: with its methods, but for those that are written here.

    Raises TypeError where it has not the same fields.
    """
    global _RELEVANT
    kind = _TWINS[struct.__name__]
    for name in struct.__struct_fields__:
        if not hasattr(kind, name):
            raise TypeError(f"{struct.__name__}.{name} has no twin")
    for name, value in struct.__dict__.items():
        if isinstance(value, FunctionType) and not name.startswith("__") and name not in kind.__dict__:
            add_to_type(kind, name, value)
    add_to_type(kind, "__struct_fields__", struct.__struct_fields__)
    add_to_type(kind, "struct", struct)
    if kind is Conversation:
        defaults = dict(zip(reversed(struct.__struct_fields__), reversed(struct.__struct_defaults__)))
        _RELEVANT = defaults["relevant"]
    return kind
