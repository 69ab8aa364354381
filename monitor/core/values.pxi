"""Values of Python's in C: fields of structs, digests, msgpack, SIDs and instants, each as the core has them.

A part of ``native.pyx``, which includes it.
"""

cdef enum:
    OUT_MAX = 4096  # Of facts that take more, and of what takes more with them, none is kept this way.
    SID = 34
    KNOWN_BITS = 12
    KNOWN_MAX = 1 << KNOWN_BITS  # At most 400 kB.


# --------------------------------------------------------------------------- fields, where they lie

cdef struct Field:
    PyTypeObject* type
    Py_ssize_t offset


cdef Field field_of(object struct, str name):
    """Where a field lies in an object of this class, as its own descriptor says."""
    member = struct.__dict__[name]
    cdef PyMemberDef* definition
    if Py_TYPE(<PyObject*> member) is not &PyMemberDescr_Type:
        raise ImportError(f"{struct.__name__}.{name} lies elsewhere")
    definition = (<PyMemberDescrObject*> member).d_member
    if definition.type != T_OBJECT_EX:
        raise ImportError(f"{struct.__name__}.{name} is no object")
    return Field(<PyTypeObject*> struct, definition.offset)


cdef inline PyObject** _place(object holder, Field* field) except NULL:
    cdef PyObject** place = <PyObject**> (<char*> <PyObject*> holder + field.offset)
    if Py_TYPE(<PyObject*> holder) is not field.type or place[0] is NULL:
        raise TypeError("not of the class that the field is of, or not set")
    return place


cdef inline object _get(object holder, Field* field):
    return <object> _place(holder, field)[0]


cdef inline int _set(object holder, Field* field, object value) except -1:
    cdef PyObject** place = _place(holder, field)
    cdef PyObject* before = place[0]
    Py_INCREF(value)
    place[0] = <PyObject*> value
    Py_XDECREF(before)
    return 0


cdef inline int _add_one(object holder, Field* field) except -1:
    cdef int64_t number = _get(holder, field)
    return _set(holder, field, number + 1)


cdef Field CALL_IDS = field_of(Call, "ids")
cdef Field BOOKS = field_of(Account, "books")
cdef Field INDEX = field_of(Account, "index")
cdef Field GUESTS = field_of(Account, "guests")

# --------------------------------------------------------------------------- a dictionary in parts: core/parted.py

cdef Py_hash_t PART = PARTS - 1  # A power of two, less one.


cdef inline dict _part(list parts, object key):
    return <dict> parts[0] if len(parts) == 1 else <dict> parts[hash(key) & PART]


cdef inline PyObject* _found(list parts, object key) except? NULL:
    """What is under a key, borrowed; NULL where nothing is."""
    return PyDict_GetItemWithError(_part(parts, key), key)


# --------------------------------------------------------------------------- msgpack, as msgspec writes it

cdef struct Out:
    Py_ssize_t size
    bint full
    unsigned char bytes[OUT_MAX]


cdef inline bint _has_room(Out* out, Py_ssize_t size) noexcept:
    return out.size + size <= OUT_MAX


cdef inline void _put(Out* out, int byte) noexcept:
    if not _has_room(out, 1):
        out.full = True
    else:
        out.bytes[out.size] = <unsigned char> byte
        out.size += 1


cdef void _put_raw(Out* out, const unsigned char* bytes_, Py_ssize_t size) noexcept:
    """What is msgpack already."""
    if not _has_room(out, size):
        out.full = True
    else:
        memcpy(out.bytes + out.size, bytes_, size)
        out.size += size


cdef void _put_bytes(Out* out, const unsigned char* text, Py_ssize_t size) noexcept:
    """A text, by its bytes."""
    if size < 32:
        _put(out, 0xA0 | size)
    elif size < 256:
        _put(out, 0xD9)
        _put(out, size)
    elif size < 0x10000:
        _put(out, 0xDA)
        _put(out, size >> 8)
        _put(out, size & 0xFF)
    else:
        out.full = True
        return
    _put_raw(out, text, size)


cdef bint _is_usual_id(Told* told, unsigned char* digits) noexcept:
    """Whether the id of an event is one of Twilio's usual ones, and what its digits stand for."""
    return (
        told.size == SID
        and (memcmp(told.at, b"EZ", 2) == 0 or memcmp(told.at, b"VW", 2) == 0)
        and read_digits(told.at + 2, digits)
    )


cdef void _digest(Told* told, unsigned char* out) noexcept:
    """``digest_of`` the id of an event."""
    cdef unsigned char digits[DIGITS_BYTES]
    if _is_usual_id(told, digits):
        write_digest(digits, DIGITS_BYTES, out)
    else:
        write_digest(told.at, told.size, out)


cdef void _put_id(Out* out, Told* told) noexcept:
    """The id of an event, as ``id_as_kept`` makes it."""
    cdef unsigned char digits[DIGITS_BYTES]
    if _is_usual_id(told, digits):
        _put(out, 0xC4)
        _put(out, 17)
        _put(out, told.at[0])
        _put_raw(out, digits, 16)
        return
    if told.size < 255:
        _put(out, 0xC4)
    elif told.size < 0xFFFF:
        _put(out, 0xC5)
        _put(out, (told.size + 1) >> 8)
    else:
        out.full = True
        return
    _put(out, (told.size + 1) & 0xFF)
    _put(out, 0x3D)
    _put_raw(out, told.at, told.size)


cdef void _put_name(Out* out, Told* name) noexcept:
    """A text that was told, or nil."""
    if name is NULL:
        _put(out, 0xC0)
    else:
        _put_bytes(out, name.at, name.size)


cdef void _put_whole(Out* out, int64_t number) noexcept:
    """A number from 0 on; those below are declined."""
    cdef int bytes_, at
    if number < 0:
        out.full = True
        return
    if number < 128:
        _put(out, number)
        return
    if number < 0x100:
        _put(out, 0xCC)
        bytes_ = 1
    elif number < 0x10000:
        _put(out, 0xCD)
        bytes_ = 2
    elif number < 0x100000000:
        _put(out, 0xCE)
        bytes_ = 4
    else:
        _put(out, 0xCF)
        bytes_ = 8
    for at in range(bytes_ - 1, -1, -1):
        _put(out, (number >> (8 * at)) & 0xFF)


cdef void _put_instant(Out* out, int64_t ms) noexcept:
    """An instant, or nil."""
    if ms == 0:
        _put(out, 0xC0)
    else:
        _put_whole(out, ms)


cdef enum:
    JOIN
    LEAVE
    INSIDE
    START
    END
    SEEN


PHASES = ("join", "leave", "inside", "start", "end", "seen")


cdef void _put_phase(Out* out, int phase) noexcept:
    if phase == JOIN:
        _put_bytes(out, <const unsigned char*> b"join", 4)
    elif phase == LEAVE:
        _put_bytes(out, <const unsigned char*> b"leave", 5)
    elif phase == INSIDE:
        _put_bytes(out, <const unsigned char*> b"inside", 6)
    elif phase == START:
        _put_bytes(out, <const unsigned char*> b"start", 5)
    elif phase == END:
        _put_bytes(out, <const unsigned char*> b"end", 3)
    else:
        _put_bytes(out, <const unsigned char*> b"seen", 4)


cdef inline bint _is(Told* told, const char* text, Py_ssize_t size) noexcept:
    return told.size == size and memcmp(told.at, text, size) == 0


cdef int _phase(Told* told) noexcept:
    """What happened in a conference, by the callback event; -1: it is spelled otherwise than it usually is."""
    cdef Py_ssize_t at
    if told.kind != TEXT:
        return -1
    if _is(told, b"participant-join", 16):
        return JOIN
    if _is(told, b"participant-leave", 17):
        return LEAVE
    if _is(told, b"conference-start", 16):
        return START
    if _is(told, b"conference-end", 14):
        return END
    for at in range(told.size):
        if not (0x61 <= told.at[at] <= 0x7A or told.at[at] == 0x2D):
            return -1
    return SEEN


cdef int64_t _number(Told* told) noexcept:
    """A number of up to nine digits, as text or not; -1: it is none such."""
    cdef int64_t number = 0
    cdef Py_ssize_t at
    if (told.kind != TEXT and told.kind != WHOLE) or not 0 < told.size < 10:
        return -1
    for at in range(told.size):
        if not _is_digit(told.at[at]):
            return -1
        number = number * 10 + told.at[at] - 0x30
    return number


# --------------------------------------------------------------------------- values, as ``values`` reads them

cdef PyObject* _KNOWN[KNOWN_MAX]  # SIDs that came before and were wanted as text, wherever their letters say.


cdef inline object _known(object memory, object told):
    cdef PyObject* found = PyDict_GetItemWithError(memory, told)
    return <object> found if found is not NULL else memory[told]


cdef inline bint _is_letter(unsigned char byte) noexcept nogil:
    """Whether it is a letter or a digit."""
    return _is_digit(byte) or 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A


cdef bint _is_sid(const unsigned char* text) noexcept nogil:
    """Whether 34 characters, of which the first two are a prefix, are a SID."""
    cdef Py_ssize_t at
    for at in range(SID):
        if not _is_letter(text[at]):
            return False
    return True


cdef object _account(const unsigned char* text, Py_ssize_t size):
    """The account's SID that a text is, or None."""
    return _remembered(text) if size == SID and memcmp(text, b"AC", 2) == 0 else None


cdef object _remembered(const unsigned char* text):
    """The text of the SID that 34 characters are, the same one as before, mostly; or None."""
    cdef uint64_t one, two
    cdef PyObject** place
    cdef PyObject* before
    cdef Py_ssize_t known
    memcpy(&one, text + SID - 16, 8)
    memcpy(&two, text + SID - 8, 8)
    place = &_KNOWN[((one ^ (two * 0x9E3779B97F4A7C15u)) * 0x9E3779B97F4A7C15u) >> (64 - KNOWN_BITS)]
    if place[0] is not NULL and memcmp(PyUnicode_AsUTF8AndSize(<object> place[0], &known), text, SID) == 0:
        return <object> place[0]
    if not _is_sid(text):
        return None
    sid = PyUnicode_DecodeUTF8(text, SID, NULL)
    before = place[0]
    Py_INCREF(sid)
    place[0] = <PyObject*> sid
    Py_XDECREF(before)
    return sid


cdef inline bint _is_plain(const unsigned char* text, Py_ssize_t size) noexcept nogil:
    """Whether a text is of letters, digits, - and _ only, and of one at least."""
    cdef Py_ssize_t at
    for at in range(size):
        if not (_is_letter(text[at]) or text[at] == 0x2D or text[at] == 0x5F):
            return False
    return size > 0


cdef bint _ends_sid(const unsigned char* at, const unsigned char* end) noexcept nogil:
    """Whether the next part of a path has a SID's length."""
    return end - at >= SID and (end - at == SID or at[SID] == 0x2F or at[SID] == 0x2E)


cdef bint _names_participant(const unsigned char* at, const unsigned char* end) noexcept nogil:
    """Whether what comes next in a path, behind a conference, is one of its participants."""
    return (
        end - at > 14
        and memcmp(at, b"/Participants/", 14) == 0
        and _ends_sid(at + 14, end)
        and memcmp(at + 14, b"CA", 2) == 0
        and _is_sid(at + 14)
    )


cdef inline int _two(const unsigned char* digits) noexcept nogil:
    """Two digits; or, where they are none, more than any two."""
    return (digits[0] - 0x30) * 10 + digits[1] - 0x30 if _is_digit(digits[0]) and _is_digit(digits[1]) else 1000


cdef inline int64_t _second(int century, int year, int month, int day, int hour, int minute, int second) noexcept nogil:
    """Milliseconds of a second of this or the next century; 0: there is no such second, or it is in none of them."""
    cdef int days
    if not (20 <= century <= 21 and year < 100 and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        return 0
    year += century * 100
    if month == 2:
        days = 28 + (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    else:
        days = 31 - (month in (4, 6, 9, 11))
    if not 1 <= day <= days:
        return 0
    # Of a year that begins in March, so that its leap day is the last one.
    if month <= 2:
        year -= 1
        month += 12
    days = year * 365 + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
    return (((<int64_t> days * 24 + hour) * 60 + minute) * 60 + second) * 1000


cdef inline int64_t _iso_ms(const unsigned char* at, Py_ssize_t size) noexcept nogil:
    """2026-11-27T07:51:52Z, or with milliseconds; 0: it is written otherwise."""
    cdef int64_t ms
    if not (at[4] == 0x2D and at[7] == 0x2D and at[10] == 0x54 and at[13] == 0x3A and at[16] == 0x3A
            and at[size - 1] == 0x5A):
        return 0
    ms = _second(_two(at), _two(at + 2), _two(at + 5), _two(at + 8), _two(at + 11), _two(at + 14), _two(at + 17))
    if size == 24 and ms:
        if not (at[19] == 0x2E and _is_digit(at[20]) and _two(at + 21) < 100):
            return 0
        ms += (at[20] - 0x30) * 100 + _two(at + 21)
    return ms


cdef const char* MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


cdef inline int64_t _rfc_2822_ms(const unsigned char* at) noexcept nogil:
    """Fri, 27 Nov 2026 07:51:52 +0000; 0: it is written otherwise."""
    cdef int month
    if not (0x41 <= at[0] <= 0x5A and 0x61 <= at[1] <= 0x7A and 0x61 <= at[2] <= 0x7A
            and at[3] == 0x2C and at[4] == 0x20 and at[7] == 0x20 and at[11] == 0x20 and at[16] == 0x20 and at[19] == 0x3A and at[22] == 0x3A
            and memcmp(at + 25, b" +0000", 6) == 0):
        return 0
    for month in range(12):
        if memcmp(at + 8, MONTHS + 3 * month, 3) == 0:
            return _second(
                _two(at + 12), _two(at + 14), month + 1, _two(at + 5), _two(at + 17), _two(at + 20), _two(at + 23)
            )
    return 0


cdef inline int64_t _epoch_ms(const unsigned char* at) noexcept nogil:
    """1795765911082; 0: it is written otherwise, or of another century."""
    cdef int64_t ms = 0
    cdef int place
    for place in range(13):
        if not _is_digit(at[place]):
            return 0
        ms = ms * 10 + at[place] - 0x30
    return ms if 0x31 <= at[0] <= 0x33 else 0


cdef int64_t _instant(Told* told) except -1:
    """Milliseconds since 1970; 0: none. The usual spellings are read here, all others as they always are."""
    cdef int64_t ms = 0
    cdef Py_ssize_t size = told.size
    if told.kind != TEXT:
        return 0
    if size == 20 or size == 24:
        ms = _iso_ms(told.at, size)
    elif size == 31:
        ms = _rfc_2822_ms(told.at)
    elif size == 13:
        ms = _epoch_ms(told.at)
    if ms:
        return ms
    known = _known(INSTANTS, PyUnicode_DecodeUTF8(told.at, size, NULL))
    return 0 if known is None else known
