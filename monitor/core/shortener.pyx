# cython: language_level=3, binding=False, embedsignature=False
"""``shortening``, compiled: byte for byte what ``plainly_shorten`` and ``plainly_restore`` do."""

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    unsigned char* bytes_of "(unsigned char *) PyBytes_AS_STRING" (object)
    const unsigned char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL

cdef extern from *:
    const unsigned int BUILT_FROM_ "BUILT_FROM"

BUILT_FROM = BUILT_FROM_  # The CRC-32 of this file when it was compiled.

cdef enum:
    MARK = 0xC1
    ITSELF = 0xFF
    OF_E = 0xFE
    OF_V = 0xFD
    MEMBERS_MAX = 0xFC
    DIGITS = 16
    IDS_MAX = 0xFFFF
    SID = 34
    TOLD_ID = 19  # A head of two bytes, a letter and the digits.
    TOLD_SID = 36  # A head of two bytes, and the SID.


cdef inline bint _is_sid(const unsigned char* at, Py_ssize_t size) noexcept nogil:
    """Two capitals, then 32 letters or digits."""
    cdef Py_ssize_t place
    if size != SID:
        return False
    for place in range(SID):
        if 0x41 <= at[place] <= 0x5A:
            continue
        if place < 2 or not (0x30 <= at[place] <= 0x39 or 0x61 <= at[place] <= 0x7A):
            return False
    return True


def shorten(bytes data, tuple members):
    cdef const unsigned char* sids[MEMBERS_MAX]
    cdef unsigned char numbers[MEMBERS_MAX]
    cdef int known = 0, each
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), length, ids = 0
    cdef const unsigned char* at = bytes_of(data)
    cdef const unsigned char* end = at + size
    cdef const unsigned char* text
    for each in range(min(len(members), MEMBERS_MAX)):
        text = PyUnicode_AsUTF8AndSize(members[each], &length)
        if _is_sid(text, length):
            sids[known], numbers[known] = text, each
            known += 1
    cdef bytes short = PyBytes_FromStringAndSize(NULL, 2 * size)
    cdef bytes digits = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* out = bytes_of(short)
    cdef unsigned char* aside = bytes_of(digits)
    with nogil:
        while at < end:
            if at[0] == 0xC4 and end - at >= TOLD_ID and at[1] == 0x11 and (at[2] == 0x45 or at[2] == 0x56):
                if ids < IDS_MAX:
                    out[0], out[1] = MARK, OF_E if at[2] == 0x45 else OF_V
                    out += 2
                    memcpy(aside + ids * DIGITS, at + 3, DIGITS)
                    ids += 1
                else:
                    for each in range(TOLD_ID):
                        out[0] = at[each]
                        out += 1
                        if at[each] == MARK:
                            out[0] = ITSELF
                            out += 1
                at += TOLD_ID
                continue
            if at[0] == 0xD9 and end - at >= TOLD_SID and at[1] == 0x22:
                each = 0
                while each < known and memcmp(at + 2, sids[each], SID) != 0:
                    each += 1
                if each < known:
                    out[0], out[1] = MARK, numbers[each]
                    out += 2
                    at += TOLD_SID
                    continue
            out[0] = at[0]
            out += 1
            if at[0] == MARK:
                out[0] = ITSELF
                out += 1
            at += 1
    return short[: out - bytes_of(short)], digits[: ids * DIGITS]


def restore(bytes short, bytes digits, tuple members):
    cdef const unsigned char* sids[MEMBERS_MAX]
    cdef Py_ssize_t lengths[MEMBERS_MAX]
    cdef int known = min(len(members), MEMBERS_MAX), number
    cdef const unsigned char* end = bytes_of(short) + PyBytes_GET_SIZE(short)
    cdef const unsigned char* at = bytes_of(short)
    cdef const unsigned char* aside = bytes_of(digits)
    cdef Py_ssize_t size = 0, left = PyBytes_GET_SIZE(digits)
    for number in range(known):
        sids[number] = PyUnicode_AsUTF8AndSize(members[number], &lengths[number])
    while at < end:
        if at[0] != MARK or at + 1 == end:
            size += 1
            at += 1
            continue
        number = at[1]
        if number == ITSELF:
            size += 1
        elif number == OF_E or number == OF_V:
            left -= DIGITS
            if left < 0:
                raise ValueError("an id is missing")
            size += TOLD_ID
        elif number >= known:
            raise ValueError("a member is missing")
        else:
            size += 2 + lengths[number]
        at += 2
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* out = bytes_of(data)
    at = bytes_of(short)
    while at < end:
        if at[0] != MARK or at + 1 == end:
            out[0] = at[0]
            out += 1
            at += 1
            continue
        number = at[1]
        if number == ITSELF:
            out[0] = MARK
            out += 1
        elif number == OF_E or number == OF_V:
            out[0], out[1], out[2] = 0xC4, 0x11, 0x45 if number == OF_E else 0x56
            memcpy(out + 3, aside, DIGITS)
            aside += DIGITS
            out += TOLD_ID
        else:
            out[0], out[1] = 0xD9, 0x22
            memcpy(out + 2, sids[number], lengths[number])
            out += 2 + lengths[number]
        at += 2
    return data
