"""Reads the bytes of one entry for the fast path: every byte is looked at once, and only what is asked for is noted.

A part of ``native.pyx``, which includes it. It knows the fields of ``envelope``'s structs, and of each that a message
holds it notes where its value stands (``Told``). It accepts less than JSON, so that whatever it accepts msgspec would
have decoded, into the same: plain numbers, no field twice, the type before the data, few levels. All else is declined,
and read the ordinary way. Bytes objects end in a zero that is not counted, and nothing here goes on from a zero: so
one may look at the byte under ``at``, but no further, without asking for the end.
"""

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* How many of the WIDTH bytes at `in` stand for themselves in a JSON string before one that does not: a quotation
       mark, a backslash, a control character, or a byte beyond ASCII. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    enum { WIDTH = 16 };
    static inline int plain_bytes(const unsigned char *in) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *) in);
        const __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
        const __m128i slashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\\\'));
        const __m128i others = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));  /* Those beyond ASCII are below zero. */
        const int ends = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, slashes), others));
        return ends ? __builtin_ctz(ends) : WIDTH;
    }
    #else
    enum { WIDTH = 8 };
    static inline int plain_bytes(const unsigned char *in) {
        /* What a borrow makes look like one stands behind a true one, so the first is always true. */
        const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
        uint64_t bytes, quotes, slashes, ends;
        memcpy(&bytes, in, WIDTH);
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
        bytes = __builtin_bswap64(bytes);
    #endif
        quotes = bytes ^ (ones * '"');
        slashes = bytes ^ (ones * '\\\\');
        ends = ((quotes - ones) & ~quotes) | ((slashes - ones) & ~slashes) | ((bytes - ones * 0x20) & ~bytes) | bytes;
        ends &= tops;
        return ends ? __builtin_ctzll(ends) >> 3 : WIDTH;
    }
    #endif
    """
    int WIDTH
    int plain_bytes(const unsigned char*) noexcept nogil

cdef enum:
    TOLD_MAX = 96
    SHAPES_MAX = 20
    KEYS_MAX = 160
    KEY_BYTES_MAX = 40
    TYPES_MAX = 512  # A power of two, and more than twice as many as there are.
    UNREAD = TYPES_MAX - 1  # The place of all types that are not among them.
    DEPTH_MAX = 8  # Of what is skipped.

cdef enum:  # What a field was told to be.
    NOTHING = 0  # Not told, or null.
    TEXT
    WHOLE  # A whole number of up to eighteen digits.
    BROKEN  # One with a point.
    TRUE
    FALSE
    BELOW  # An object, whose fields have been noted.

cdef struct Told:
    const unsigned char* at  # Of a text or a number; of a text without its quotation marks.
    Py_ssize_t size
    unsigned char kind
    unsigned char seen
    unsigned char escaped

cdef struct Key:
    const unsigned char* name
    Py_ssize_t size
    int told  # Where it is noted.
    int below  # The shape of the object that it holds; -1: a single value.
    bint needed  # Else that object may be null, or not there.
    int other  # Another key of the same length; -1: none.

cdef struct Shape:
    int first[KEY_BYTES_MAX]  # A key by its length; -1: none.
    int needed

cdef struct Type:
    const unsigned char* name
    Py_ssize_t size
    int shape  # Of its data.
    int place  # Among what the fast path knows of types.

cdef struct Scan:
    const unsigned char* at
    const unsigned char* end
    int place  # Of its type; -1 as long as it has not been told.
    int shape
    Told told[TOLD_MAX]

cdef Shape SHAPES[SHAPES_MAX]
cdef Key KEYS[KEYS_MAX]
cdef Type TYPES[TYPES_MAX]
cdef int _shapes = 0, _keys = 0, _types = 0
cdef int ENVELOPE = -1, TYPE = -1, DATA = -1
cdef int ANYTHING = -1  # The shape of data of which nothing is asked.


# --------------------------------------------------------------------------- the tables, from the structs

_NAMES = []  # Every name in the tables: they hold only where its bytes are.
_PLACES = {}  # Where the fields are noted that are called so at one level.
_SHAPES = {}


def _lasting(text):
    name = text.encode()
    _NAMES.append(name)
    return name


cdef int told_at(str level, str field) except -1:
    """Where a field of this level of an entry is noted."""
    return _PLACES.setdefault((level, field), len(_PLACES))


cdef int shape_at(object struct, str level) except -1:
    """The table of a struct's fields, and of those of the structs in it."""
    global _shapes
    if struct in _SHAPES:
        return _SHAPES[struct]
    cdef int shape = _shapes
    cdef int size
    if shape >= SHAPES_MAX:
        raise ImportError("too many shapes")
    _shapes += 1
    _SHAPES[struct] = shape
    SHAPES[shape].needed = 0
    for size in range(KEY_BYTES_MAX):
        SHAPES[shape].first[size] = -1
    for field in msgspec.structs.fields(struct):
        below, needed = -1, False
        inner = [kind for kind in get_args(field.type) or (field.type,) if is_struct(kind)]
        if inner:
            below = shape_at(inner[0], field.name)
            needed = inner[0] is field.type
        elif field.type not in (Text, Any):
            raise ImportError(f"a field of an unknown kind: {field.name}")
        add_key(shape, field.encode_name, told_at(level, field.name), below, needed)
    return shape


cdef int add_key(int shape, str spelled, int told, int below, bint needed) except -1:
    global _keys
    cdef bytes name = _lasting(spelled)
    cdef Py_ssize_t size = len(name)
    if _keys >= KEYS_MAX or told >= TOLD_MAX or size >= KEY_BYTES_MAX:
        raise ImportError("too many fields")
    KEYS[_keys] = Key(bytes_of(name), size, told, below, needed, SHAPES[shape].first[size])
    SHAPES[shape].first[size] = _keys
    SHAPES[shape].needed += needed
    _keys += 1
    return 0


cdef int add_type(str spelled, object data, int place) except -1:
    """Know a type, and the struct of its data; ``place`` is what ``scan`` says of an entry of this type."""
    global _types
    cdef bytes name = _lasting(spelled)
    cdef unsigned int at = _type_place(bytes_of(name), len(name))
    if 2 * _types >= TYPES_MAX:
        raise ImportError("too many types")
    while TYPES[at].name is not NULL:
        at = (at + 1) % TYPES_MAX
    TYPES[at] = Type(bytes_of(name), len(name), shape_at(data, "data"), place)
    _types += 1
    return 0


cdef inline unsigned int _type_place(const unsigned char* name, Py_ssize_t size) noexcept nogil:
    """Where to look for a type: its last letters tell most of them apart."""
    cdef unsigned int sum_ = <unsigned int> size
    cdef Py_ssize_t at
    for at in range(size - 12 if size > 12 else 0, size):
        sum_ = sum_ * 31 + name[at]
    return sum_ % TYPES_MAX


# --------------------------------------------------------------------------- JSON

cdef inline const unsigned char* _past_space(const unsigned char* at) noexcept nogil:
    while at[0] == 0x20 or at[0] == 0x0A or at[0] == 0x0D or at[0] == 0x09:
        at += 1
    return at


cdef inline bint _is_digit(unsigned char byte) noexcept nogil:
    return 0x30 <= byte <= 0x39


cdef const unsigned char* _past_letter(const unsigned char* at) noexcept nogil:
    """Past one letter beyond ASCII, as UTF-8 writes it: no longer than need be, no surrogate. NULL: it is none."""
    cdef unsigned char first = at[0], low = 0x80, high = 0xBF
    cdef int more, each
    if 0xC2 <= first <= 0xDF:
        more = 1
    elif 0xE0 <= first <= 0xEF:
        more = 2
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
    elif 0xF0 <= first <= 0xF4:
        more = 3
        if first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
    else:
        return NULL
    for each in range(more):
        at += 1
        if not low <= at[0] <= high:
            return NULL
        low, high = 0x80, 0xBF
    return at + 1


cdef const unsigned char* _past_escape(const unsigned char* at) noexcept nogil:
    """Past a backslash and what it stands before. NULL: that is nothing, or half of a pair of surrogates."""
    cdef unsigned char byte = at[1]
    cdef unsigned int letter = 0
    cdef int each
    if byte in (0x22, 0x5C, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74):  # "\/bfnrt
        return at + 2
    if byte != 0x75:
        return NULL
    at += 2
    for each in range(4):
        byte = at[0]
        if _is_digit(byte):
            letter = letter * 16 + byte - 0x30
        elif 0x61 <= (byte | 0x20) <= 0x66:
            letter = letter * 16 + (byte | 0x20) - 0x57
        else:
            return NULL
        at += 1
    return NULL if 0xD800 <= letter <= 0xDFFF else at


cdef inline const unsigned char* _past_text(Scan* scan, const unsigned char* at, unsigned char* escaped) noexcept nogil:
    """From behind the first quotation mark of a text onto its last one. NULL: it is not well-formed."""
    cdef int plain
    cdef unsigned char byte
    while True:
        while scan.end - at >= WIDTH:
            plain = plain_bytes(at)
            at += plain
            if plain < WIDTH:
                break
        byte = at[0]
        if byte == 0x22:
            return at
        if byte == 0x5C:
            escaped[0] = 1
            at = _past_escape(at)
            if at is NULL:
                return NULL
        elif byte >= 0x80:
            at = _past_letter(at)
            if at is NULL:
                return NULL
        elif byte < 0x20:
            return NULL
        else:
            at += 1


cdef inline const unsigned char* _past_number(const unsigned char* at, unsigned char* kind) noexcept nogil:
    """Past a number of at most eighteen digits, and as many behind a point. NULL: it is none, or none so plain."""
    cdef const unsigned char* first
    kind[0] = WHOLE
    if at[0] == 0x2D:
        at += 1
    first = at
    while _is_digit(at[0]):
        at += 1
    if at == first or at - first > 18 or (first[0] == 0x30 and at - first > 1):
        return NULL
    if at[0] == 0x2E:
        kind[0] = BROKEN
        at += 1
        first = at
        while _is_digit(at[0]):
            at += 1
        if at == first or at - first > 18:
            return NULL
    return NULL if at[0] == 0x65 or at[0] == 0x45 else at


cdef inline const unsigned char* _past_word(Scan* scan, const unsigned char* at, unsigned char* kind) noexcept nogil:
    """Past true, false or null. NULL: it is none of these."""
    if scan.end - at >= 5:  # Behind each of them comes at least a brace.
        if memcmp(at, b"true", 4) == 0:
            kind[0] = TRUE
            return at + 4
        if memcmp(at, b"null", 4) == 0:
            kind[0] = NOTHING
            return at + 4
        if memcmp(at, b"false", 5) == 0:
            kind[0] = FALSE
            return at + 5
    return NULL


cdef const unsigned char* _past_value(Scan* scan, const unsigned char* at, int depth) noexcept nogil:
    """Past a value that nobody asks for. NULL: it is not well-formed, or nested too deeply."""
    cdef unsigned char kind = 0, last, escaped = 0
    cdef bint named
    if at[0] == 0x22:
        at = _past_text(scan, at + 1, &escaped)
        return NULL if at is NULL else at + 1
    if at[0] == 0x2D or _is_digit(at[0]):
        return _past_number(at, &kind)
    if at[0] != 0x7B and at[0] != 0x5B:
        return _past_word(scan, at, &kind)
    if depth >= DEPTH_MAX:
        return NULL
    named = at[0] == 0x7B
    last = 0x7D if named else 0x5D
    at = _past_space(at + 1)
    if at[0] == last:
        return at + 1
    while True:
        if named:
            if at[0] != 0x22:
                return NULL
            at = _past_text(scan, at + 1, &escaped)
            if at is NULL:
                return NULL
            at = _past_space(at + 1)
            if at[0] != 0x3A:
                return NULL
            at = _past_space(at + 1)
        at = _past_value(scan, at, depth + 1)
        if at is NULL:
            return NULL
        at = _past_space(at)
        if at[0] == last:
            return at + 1
        if at[0] != 0x2C:
            return NULL
        at = _past_space(at + 1)


cdef inline bint _note(Scan* scan, Told* told) noexcept nogil:
    """Note a single value; whether it is one, and well-formed."""
    cdef const unsigned char* at = scan.at
    cdef const unsigned char* first = at
    if at[0] == 0x22:
        at = _past_text(scan, at + 1, &told.escaped)
        if at is NULL:
            return False
        told.kind, told.at, told.size = TEXT, first + 1, at - first - 1
        scan.at = at + 1
        return True
    if at[0] == 0x2D or _is_digit(at[0]):
        at = _past_number(at, &told.kind)
    else:
        at = _past_word(scan, at, &told.kind)
    if at is NULL:
        return False
    told.at, told.size = first, at - first
    scan.at = at
    return True


cdef inline bint _know_type(Scan* scan, Told* told) noexcept nogil:
    """Take in of which type an entry is; whether it says so."""
    cdef unsigned int at
    if told.kind != TEXT:
        return False
    scan.place, scan.shape = UNREAD, ANYTHING
    at = _type_place(told.at, told.size)
    while TYPES[at].name is not NULL:
        if TYPES[at].size == told.size and memcmp(TYPES[at].name, told.at, told.size) == 0:
            scan.place, scan.shape = TYPES[at].place, TYPES[at].shape
            break
        at = (at + 1) % TYPES_MAX
    return True


cdef bint _scan_object(Scan* scan, int shape) noexcept nogil:
    """Note the fields of an object, from behind its brace; whether all of them are as its struct has them."""
    cdef const unsigned char* name
    cdef const unsigned char* at = _past_space(scan.at)
    cdef Py_ssize_t size
    cdef int key, below, needed = SHAPES[shape].needed
    cdef unsigned char escaped
    cdef Told* told
    if at[0] == 0x7D:
        scan.at = at + 1
        return needed == 0
    while True:
        if at[0] != 0x22:
            return False
        name = at + 1
        escaped = 0
        at = _past_text(scan, name, &escaped)
        if at is NULL or escaped:
            return False
        size = at - name
        at = _past_space(at + 1)
        if at[0] != 0x3A:
            return False
        at = _past_space(at + 1)
        key = SHAPES[shape].first[size] if size < KEY_BYTES_MAX else -1
        while key >= 0 and memcmp(KEYS[key].name, name, size) != 0:
            key = KEYS[key].other
        if key < 0:
            at = _past_value(scan, at, 0)
            if at is NULL:
                return False
        else:
            told = &scan.told[KEYS[key].told]
            if told.seen:
                return False
            told.seen = True
            scan.at = at
            below = KEYS[key].below
            if KEYS[key].told == DATA:
                below = scan.shape  # -1: its type has not been told yet.
                if below < 0:
                    return False
            if below >= 0 and at[0] == 0x7B:
                scan.at += 1
                told.kind = BELOW
                needed -= KEYS[key].needed
                if not _scan_object(scan, below):
                    return False
            elif not _note(scan, told):
                return False
            elif below >= 0 and (KEYS[key].needed or told.kind != NOTHING):
                return False
            elif KEYS[key].told == TYPE and not _know_type(scan, told):
                return False
            at = scan.at
        at = _past_space(at)
        if at[0] == 0x7D:
            scan.at = at + 1
            return needed == 0
        if at[0] != 0x2C:
            return False
        at = _past_space(at + 1)


cdef int scan_entry(Scan* scan, const unsigned char* text, Py_ssize_t size) noexcept nogil:
    """Note what an entry tells; the place of its type, or -1: it is not to be read this way."""
    memset(&scan.told, 0, sizeof(scan.told))
    scan.place = scan.shape = -1
    scan.end = text + size
    scan.at = _past_space(text)
    if scan.at[0] != 0x7B:
        return -1
    scan.at += 1
    if not _scan_object(scan, ENVELOPE):
        return -1
    return scan.place if _past_space(scan.at) == scan.end else -1
