# cython: language_level=3
"""What a window holds by the hundred thousand, laid out as in C: see ``compact.pyx``, and who reads it there."""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef enum:
    SID_CHARACTERS = 34
    MEMBER_BYTES = 17  # One of which says the prefix.
    PARTED = 256
    DIGEST_BYTES = 6
    DIGITS_BYTES = 16  # Of the id of an event.
    PACKED_HEAD_BYTES = 7


cdef struct SidKey:
    uint64_t high  # The sixteen bytes that a SID's digits stand for; of any other text its object.
    uint64_t low
    unsigned int kind  # By its prefix; 0: it is no SID such as Twilio's usually are.


cdef struct Entry:
    uint64_t high
    uint64_t low
    uintptr_t value  # An object; and in its lowest bits the kind, 0 of one that was taken out.


cdef struct Part:
    Entry* entries  # In the order in which they came, with gaps where some were taken out.
    uint32_t* slots  # By hash: where among the entries, counted from 1.
    uint32_t mask, used, room, live


cdef class Table:
    cdef Part* parts
    cdef uint32_t count
    cdef dict odd


cdef class Birth:
    cdef public int64_t offset, arrived_ms, beside_offset, beside_ms
    cdef public bint open


cdef class Seen:
    cdef SidKey _sid
    cdef readonly int64_t arrived_ms, offset
    cdef readonly int32_t index


cdef class NamedRoom:
    cdef SidKey _name, _conference
    cdef public int64_t first_ms
    cdef int64_t _end_ms  # Before all instants: it has not ended.


cdef class Seldom:
    cdef bytes told_late
    cdef object claims, called, guests, notes


cdef class Conversation:
    cdef public str account
    cdef object _members  # As bytes, MEMBER_BYTES each; or, where one is no usual SID, a tuple of texts.
    cdef public Birth birth
    cdef public int64_t last_ms, bucket
    cdef PyObject* _evidence  # Bytes, which grow where they are.
    cdef PyObject* _properties
    cdef PyObject* _ids
    cdef public bytes packed, again
    cdef object _recordings  # None, one, or a tuple; so are the others.
    cdef object _suspects
    cdef object _rooms
    cdef public object focus
    cdef Seldom _seldom  # None where nothing of it is set.
    cdef public int32_t kept, properties_kept, place, epoch, swept, conferences
    cdef public uint16_t relevant
    cdef unsigned char _truncated, _cold, _by_name, _waiting, _open


cdef int key_of(object text, SidKey* key) except -1
cdef object text_of(SidKey* key)
cdef bint is_empty(Table table) noexcept
cdef bint is_same(SidKey* key, object text) except -1
cdef bint read_digits(const unsigned char* text, unsigned char* out) noexcept nogil
cdef bint read_key(const unsigned char* text, SidKey* key) noexcept nogil
cdef inline bint are_same(SidKey* one, SidKey* other) noexcept nogil:
    return one.low == other.low and one.high == other.high and one.kind == other.kind
cdef PyObject* found_in(Table table, object text) except? NULL
cdef PyObject* found_by(Table table, SidKey* key) noexcept
cdef int put_by(Table table, SidKey* key, object value) except -1
cdef int grow(PyObject** place, const unsigned char* more, Py_ssize_t size) except -1
cdef int add_member(Conversation conversation, SidKey* key) except -1
cdef void write_digest(const unsigned char* kept, Py_ssize_t size, unsigned char* out) noexcept
cdef bint has_had(Conversation conversation, const unsigned char* digest) noexcept
