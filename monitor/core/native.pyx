# cython: language_level=3, binding=False, embedsignature=False
"""The fast path, compiled: what most events of a busy stream show goes from its envelope straight into the window.

Optional. 85 events in a hundred name what is known in a conversation that is open, as Twilio usually tells it. For each
family of these, ``FastPath`` does in one go exactly what its reader (``readers``) and ``Window.fold`` do together,
without an ``Event`` and its facts between; or it declines, has changed nothing, and the message goes the ordinary way.
It may decline whatever it likes, and must where it would do otherwise: ``tests/test_native.py`` holds both ways against
each other, bit by bit. JSON is still read by msgspec: nothing here looks at bytes from outside.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from monitor.core.conversation import KIND, STAMP_BYTES, TYPE_CODES
from monitor.core.envelope import FAULTS
from monitor.core.events import (
    AnyFact,
    CallFact,
    ConferenceFact,
    ExecutionFact,
    ParticipantFact,
    StepFact,
    TaskFact,
)
from monitor.core.guests import moves
from monitor.core.readers import (
    BY_ENVELOPE,
    PARTICIPANT,
    PHASES,
    code_refused,
    decode_envelope,
    is_ignored,
    linked,
    said,
)
from monitor.core.twiml import recorded_conferences
from monitor.core.values import (
    ACCOUNTS,
    AGE_BOUNDS_MS,
    AHEAD_MAX_MS,
    CALLS,
    CONFERENCES,
    EXECUTIONS,
    INSTANTS,
    MESSAGE_BYTES_MAX,
    TASKS,
    number_of,
)
from monitor.core.window import COLD_TAIL_BYTES, LOOK_EVERY, is_news

import msgspec

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    int PyUnicode_CheckExact(object)

cdef extern from *:
    """
    #include <string.h>
    static const unsigned char *find_bytes(const unsigned char *in, Py_ssize_t n, const unsigned char *what, Py_ssize_t m) {
        return (const unsigned char *) memmem(in, (size_t) n, what, (size_t) m);
    }
    """
    const unsigned char* find_bytes(const unsigned char*, Py_ssize_t, const unsigned char*, Py_ssize_t)
    const unsigned int BUILT_FROM_ "BUILT_FROM"

BUILT_FROM = BUILT_FROM_  # The CRC-32 of this file when it was compiled.

cdef enum:
    OUT_MAX = 4096  # Of facts that take more, and of what takes more with them, none is kept this way.
    DIGEST = 6

cdef int CALL_KIND = KIND[CallFact]
cdef int TASK_KIND = KIND[TaskFact]
cdef int PARTICIPANT_KIND = KIND[ParticipantFact]
cdef int CONFERENCE_KIND = KIND[ConferenceFact]
cdef int STEP_KIND = KIND[StepFact]
cdef int EXECUTION_KIND = KIND[ExecutionFact]
cdef int STAMP = STAMP_BYTES
cdef int64_t YOUNG_MS = AGE_BOUNDS_MS[0]
cdef object _decode_facts = msgspec.msgpack.Decoder(tuple[AnyFact, ...]).decode

# --------------------------------------------------------------------------- digests, as digest_of makes them

cdef uint32_t CRC_32[256]
cdef uint16_t CRC_HQX[256]


cdef void _fill_tables():
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


cdef inline void _digest(const unsigned char* text, Py_ssize_t size, unsigned char* out):
    cdef uint32_t long_ = 0xFFFFFFFFu
    cdef uint16_t short_ = 0
    cdef Py_ssize_t at
    for at in range(size):
        long_ = (long_ >> 8) ^ CRC_32[(long_ ^ text[at]) & 0xFF]
        short_ = <uint16_t> ((short_ << 8) ^ CRC_HQX[((short_ >> 8) ^ text[at]) & 0xFF])
    long_ = ~long_
    out[0], out[1], out[2], out[3] = long_ >> 24, (long_ >> 16) & 0xFF, (long_ >> 8) & 0xFF, long_ & 0xFF
    out[4], out[5] = short_ >> 8, short_ & 0xFF


cdef inline bint _holds(const unsigned char* ids, Py_ssize_t size, const unsigned char* digest):
    cdef Py_ssize_t at = 0
    while at < size:
        if (ids[at] == digest[0] and ids[at + 1] == digest[1] and ids[at + 2] == digest[2]
                and ids[at + 3] == digest[3] and ids[at + 4] == digest[4] and ids[at + 5] == digest[5]):
            return True
        at += DIGEST
    return False


# --------------------------------------------------------------------------- msgpack, as msgspec writes it

cdef struct Out:
    Py_ssize_t size
    bint full
    unsigned char bytes[OUT_MAX]


cdef inline void _put(Out* out, int byte):
    if out.size + 9 > OUT_MAX:
        out.full = True
    else:
        out.bytes[out.size] = <unsigned char> byte
        out.size += 1


cdef int _put_text(Out* out, object text) except -1:
    """A text, or nil."""
    cdef Py_ssize_t size
    cdef const char* utf8
    if text is None:
        _put(out, 0xC0)
        return 0
    utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    if size > 0xFFFF or out.size + size + 9 > OUT_MAX:
        out.full = True
        return 0
    if size < 32:
        _put(out, 0xA0 | size)
    elif size < 256:
        _put(out, 0xD9)
        _put(out, size)
    else:
        _put(out, 0xDA)
        _put(out, size >> 8)
        _put(out, size & 0xFF)
    memcpy(out.bytes + out.size, utf8, size)
    out.size += size
    return 0


cdef void _put_whole(Out* out, int64_t number):
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


cdef int _put_instant(Out* out, object ms) except -1:
    if ms is None:
        _put(out, 0xC0)
    else:
        _put_whole(out, ms)
    return 0


cdef int _put_texts(Out* out, tuple texts) except -1:
    if len(texts) > 15:
        out.full = True
        return 0
    _put(out, 0x90 | len(texts))
    for text in texts:
        _put_text(out, text)
    return 0


# --------------------------------------------------------------------------- what was told before, as it was read then

cdef inline object _known(object memory, object told):
    cdef PyObject* found = PyDict_GetItemWithError(memory, told)
    return <object> found if found is not NULL else memory[told]


cdef inline bint _is_text(object value):
    return PyUnicode_CheckExact(value) and len(<str> value) > 0


cdef inline bint _is_text_or_none(object value):
    return value is None or _is_text(value)


# --------------------------------------------------------------------------- the fold

cdef enum:
    _CALL = 1
    _CONFERENCE
    _PARTICIPANT
    _CALL_SUMMARY
    _TASK
    _STEP
    _TWIML
    _PARTICIPANT_SUMMARY
    _CONFERENCE_SUMMARY
    _EXECUTION
    _EXECUTION_ENDED
    _IGNORED


cdef class FastPath:
    """The fast path of one partition, into its window. It holds nothing but what it is at with the message at hand."""

    cdef object window, nailed, births, young
    cdef dict accounts
    cdef readonly object envelope  # The message last declined, as far as it was read.
    cdef Out facts  # The facts at hand, each as msgpack.
    cdef int count  # How many.
    cdef int kinds
    cdef object account, members, occurred_ms
    cdef object room, name  # A conference that goes by a name, and the name.
    cdef object first_ms, end_ms  # When it was seen under it, and when it ended.
    cdef object call  # The call that was seen in it.

    def __cinit__(self, window):
        self.window, self.nailed, self.accounts = window, window.nailed, window.accounts
        self.births, self.young = window.births, window.young

    def feed(self, pipeline, offset, timestamp_ms, value, headers):
        """As ``Pipeline.feed``; None where the message is to go the ordinary way, and nothing has happened yet."""
        self.envelope = None
        if value is None or headers or len(value) > MESSAGE_BYTES_MAX or offset in pipeline.skip:
            return None
        window, log_time_ms = self.window, pipeline.log_time_ms
        if log_time_ms is None or timestamp_ms - log_time_ms > AHEAD_MAX_MS:
            return None
        if timestamp_ms > log_time_ms:
            log_time_ms = timestamp_ms
        gate = pipeline.gate
        cdef bint telling = gate is not None and offset >= gate
        # Where something is to be done before its entry is folded, a message goes the ordinary way.
        if log_time_ms >= window.due_ms or window.cut is not None:
            return None
        if offset < pipeline._open_from or offset <= pipeline._covered:
            return None  # It is not folded as others are.
        if telling and (pipeline._kept_back or pipeline._overtaken or pipeline.ledger.heard):
            return None
        try:
            self.envelope = envelope = decode_envelope(value)
        except FAULTS:
            return None
        fast = FAST.get(type(envelope))
        if fast is None:
            return None
        kind, family, code = fast
        conversation = None
        cdef int kinds = 0
        if family != _IGNORED:
            folded = self.fold(family, code, envelope, offset, log_time_ms)
            if folded is None:
                return None
            conversation, kinds = folded
        self.envelope = None
        pipeline.stamped_before_ms, pipeline.log_time_ms, pipeline.next_offset = timestamp_ms, log_time_ms, offset + 1
        counts = pipeline.counts
        cdef bint aged = False
        if conversation is not None and log_time_ms - self.oldest().arrived_ms > window.age_max_ms:
            aged = log_time_ms - conversation.birth.arrived_ms > window.age_max_ms  # Only if the oldest birth is.
        if not telling:
            counts.replayed += 1
            return pipeline.rebuilt_too_old(offset, log_time_ms) if aged else ()
        counts.messages += 1
        counts.entries += 1
        if conversation is None:
            counts.ignored += 1
            window.renewed.clear()  # That is of the last event folded, and has been looked at.
        else:
            self.tally(pipeline, kind, self.occurred_ms, log_time_ms)
            if kinds & conversation.relevant and (conversation.recordings or conversation.suspects):
                return pipeline.tell_of(conversation, offset, log_time_ms, aged=aged)
        if aged or window.renewed or not pipeline.is_calm(log_time_ms):
            return pipeline.tell_of(None, offset, log_time_ms, aged=aged)
        return ()

    cdef object oldest(self):
        """The birth of the oldest conversation, or of one that was older; one is open."""
        return self.births[0] if self.births else self.young[0]

    cdef int tally(self, object pipeline, object kind, object occurred_ms, object log_time_ms) except -1:
        cdef int64_t age_ms = log_time_ms - occurred_ms
        found = pipeline.tallies.get(kind)
        if found is None or age_ms > YOUNG_MS:
            pipeline.tally(kind, occurred_ms, log_time_ms)
            return 0
        cdef list tally = found
        tally[0] += 1
        if age_ms > 0:
            tally[len(tally) - 2] += age_ms
        if occurred_ms > tally[len(tally) - 1]:
            tally[len(tally) - 1] = occurred_ms
        return 0

    cdef object fold(self, int family, object code, object envelope, object offset, object arrived_ms):
        """Fold one event: the conversation it went to, and the kinds of what was new. None: declined.

        ``code`` is what stands for its type in evidence; offset and log time (ms) are those of the message.
        """
        self.facts.size, self.facts.full, self.count, self.kinds = 0, False, 0, 0
        self.room = self.name = self.first_ms = self.end_ms = self.call = None
        data = envelope.data
        cdef bint shows
        if family == _CALL:
            shows = self.read_call(data)
        elif family == _CONFERENCE or family == _PARTICIPANT:
            shows = self.read_conference(data, family == _PARTICIPANT)
        elif family == _CALL_SUMMARY:
            shows = self.read_call_summary(data)
        elif family == _TASK:
            shows = self.read_task(data)
        elif family == _STEP:
            shows = self.read_step(data)
        elif family == _TWIML:
            shows = self.read_twiml(data)
        elif family == _PARTICIPANT_SUMMARY:
            shows = self.read_participant_summary(data)
        elif family == _CONFERENCE_SUMMARY:
            shows = self.read_conference_summary(data)
        else:
            shows = self.read_execution(data, family == _EXECUTION_ENDED)
        if not shows or self.facts.full:
            return None
        return self.enter(code, envelope.id, offset, arrived_ms)

    # ----------------------------------------------------------------- one function a family: what it shows

    cdef bint read_call(self, object data) except -1:
        self.occurred_ms = _known(INSTANTS, data.request.parameters.timestamp)
        return self.show_parameters(data.request.parameters)

    cdef bint read_twiml(self, object data) except -1:
        p = data.request.parameters
        body = data.response.response_body
        if p.dial_call_sid is not None or p.conference_sid is not None:
            return False
        if PyUnicode_CheckExact(body):
            try:
                if recorded_conferences(body) and not code_refused(data):
                    return False
            except FAULTS:
                return False
        self.occurred_ms = _known(INSTANTS, p.timestamp)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, data.timestamp)
        return self.show_parameters(p)

    cdef bint show_parameters(self, object p) except -1:
        """What the parameters of a callback say of its call."""
        self.account = _known(ACCOUNTS, p.account_sid)
        call = _known(CALLS, p.call_sid)
        direction, from_, to = p.direction, p.from_, p.to
        if self.account is None or call is None or self.occurred_ms is None:
            return False
        if not (_is_text(direction) and _is_text(from_) and _is_text(to)):
            return False
        self.members = self.pair(call, _known(CALLS, p.parent_call_sid))
        return self.show_call(call, direction, from_, to)

    cdef bint read_call_summary(self, object data) except -1:
        self.account = _known(ACCOUNTS, data.account_sid)
        call = _known(CALLS, data.call_sid)
        self.occurred_ms = _known(INSTANTS, data.timestamp)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, data.end_time)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, data.start_time)
        if self.account is None or call is None or self.occurred_ms is None or data.properties is None:
            return False
        direction = data.properties.direction
        if not _is_text(direction):
            return False
        self.members = self.pair(call, _known(CALLS, data.parent_call_sid))
        return self.show_call(call, direction, None, None)

    cdef bint show_call(self, object call, object direction, object from_, object to) except -1:
        cdef Out* out = &self.facts
        _put(out, 0x95)
        _put(out, 9)
        _put_text(out, call)
        _put_text(out, direction)
        _put_text(out, from_)
        _put_text(out, to)
        self.count, self.kinds = 1, CALL_KIND
        return True

    cdef bint read_task(self, object data) except -1:
        payload = data.payload
        self.account = _known(ACCOUNTS, data.account_sid)
        if self.account is None:
            self.account = _known(ACCOUNTS, payload.account_sid)
        task = _known(TASKS, payload.task_sid)
        self.occurred_ms = _known(INSTANTS, payload.timestamp_ms)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, data.timestamp)
        if self.account is None or task is None or self.occurred_ms is None:
            return False
        conference, calls = linked(payload.task_attributes)
        self.members = (task, *calls) if conference is None else (task, conference, *calls)
        cdef Out* out = &self.facts
        _put(out, 0x96)
        _put(out, 6)
        _put_text(out, task)
        _put_text(out, conference)
        _put_texts(out, calls)
        _put_texts(out, said(payload.task_queue_sid, payload.task_queue_name))
        _put_texts(out, said(payload.worker_sid, payload.worker_name))
        self.count, self.kinds = 1, TASK_KIND
        if conference is not None:
            self.room = conference  # It shows a Flex conference: worth its position.
        return True

    cdef bint read_conference(self, object data, bint participant) except -1:
        p = data.request.parameters
        self.account = _known(ACCOUNTS, p.account_sid)
        conference = _known(CONFERENCES, p.conference_sid)
        self.occurred_ms = _known(INSTANTS, p.timestamp)
        name, happened = p.friendly_name, p.status_callback_event
        if self.account is None or conference is None or self.occurred_ms is None or not _is_text(name):
            return False
        phase = PHASES.get(happened)
        if phase is None and not PyUnicode_CheckExact(happened):
            return False
        if phase is None and PHASES.get(happened.strip().lower()) is not None:
            return False
        call, ending = _known(CALLS, p.call_sid), _known(CALLS, p.call_sid_ending_conference)
        if call is None and (participant or p.call_sid is not None):
            return False
        self.room, self.name, self.first_ms = conference, name, self.occurred_ms
        self.call = call
        if call is not None:
            self.members = (conference, call)
            self.show_participant(conference, call, phase if phase == "join" or phase == "leave" else "inside", name, None)
        else:
            self.members = (conference,)
            if phase == "end":
                self.end_ms = self.occurred_ms
            self.show_conference(conference, name, phase if phase == "start" or phase == "end" else "seen", None, None)
        if ending is not None and ending != call:
            if call is not None:
                return False
            self.call = ending
            self.members = (*self.members, ending)
            self.show_participant(conference, ending, "leave", name, None)
        return True

    cdef bint read_participant_summary(self, object data) except -1:
        self.account = _known(ACCOUNTS, data.account_sid)
        conference, call = _known(CONFERENCES, data.conference_sid), _known(CALLS, data.call_sid)
        self.occurred_ms = _known(INSTANTS, data.timestamp)
        joined_ms, left_ms = _known(INSTANTS, data.join_time), _known(INSTANTS, data.leave_time)
        if self.occurred_ms is None:
            self.occurred_ms = joined_ms if left_ms is None else left_ms
        enabled = None if data.properties is None else data.properties.recording_enabled
        if self.account is None or conference is None or call is None or self.occurred_ms is None:
            return False
        if enabled is not None and enabled is not False:
            return False
        self.members, self.room, self.call = (conference, call), conference, call
        self.show_participant(conference, call, "join" if joined_ms else "inside", None, joined_ms)
        if left_ms is not None:
            self.show_participant(conference, call, "leave", None, left_ms)
        return self.show_conference(conference, None, "seen", joined_ms, enabled)

    cdef bint read_conference_summary(self, object data) except -1:
        self.account = _known(ACCOUNTS, data.account_sid)
        conference, name = _known(CONFERENCES, data.conference_sid), data.friendly_name
        self.occurred_ms = _known(INSTANTS, data.timestamp)
        start_ms, end_ms = _known(INSTANTS, data.start_time), _known(INSTANTS, data.end_time)
        if start_ms is None:
            start_ms = _known(INSTANTS, data.create_time)
        if self.occurred_ms is None:
            self.occurred_ms = start_ms if end_ms is None else end_ms
        enabled = data.recording_enabled
        if self.account is None or conference is None or self.occurred_ms is None or start_ms is None:
            return False
        if not _is_text(name) or (enabled is not None and enabled is not False):
            return False
        self.members = (conference,)
        self.room, self.name, self.first_ms, self.end_ms = conference, name, start_ms, end_ms
        self.show_conference(conference, name, "start", start_ms, enabled)
        if end_ms is not None:
            self.show_conference(conference, name, "end", end_ms, None)
        return True

    cdef bint read_step(self, object data) except -1:
        self.account = _known(ACCOUNTS, data.account_sid)
        execution = _known(EXECUTIONS, data.execution_sid)
        self.occurred_ms = _known(INSTANTS, data.timestamp)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, data.date_created)
        leaves, enters, transition = data.transitioned_from, data.transitioned_to, data.name
        if self.account is None or execution is None or self.occurred_ms is None:
            return False
        if not (_is_text_or_none(leaves) and _is_text_or_none(enters) and _is_text_or_none(transition)):
            return False
        self.members = (execution,)
        cdef Out* out = &self.facts
        _put(out, 0x95)
        _put(out, 8)
        _put_text(out, execution)
        _put_text(out, leaves)
        _put_text(out, enters)
        _put_text(out, transition)
        self.count, self.kinds = 1, STEP_KIND
        return True

    cdef bint read_execution(self, object data, bint ended) except -1:
        self.account = _known(ACCOUNTS, data.account_sid)
        execution, call = _known(EXECUTIONS, data.execution_sid), _known(CALLS, data.started_by)
        flow, revision = data.flow_sid, number_of(data.flow_revision)
        own_date = (data.date_updated or data.date_created) if ended else data.date_created
        self.occurred_ms = _known(INSTANTS, data.timestamp)
        if self.occurred_ms is None:
            self.occurred_ms = _known(INSTANTS, own_date)
        if call is None:
            call = _known(CALLS, data.call_sid)
        if self.account is None or execution is None or self.occurred_ms is None or not _is_text(flow):
            return False
        if revision is None or not 0 <= revision < 1 << 31:
            return False
        self.members = self.pair(execution, call)
        cdef Out* out = &self.facts
        _put(out, 0x96)
        _put(out, 7)
        _put_text(out, execution)
        _put_text(out, call)
        _put_text(out, flow)
        _put_whole(out, revision)
        _put(out, 0xC3 if ended else 0xC2)
        self.count, self.kinds = 1, EXECUTION_KIND
        return True

    cdef object pair(self, object one, object other):
        return (one,) if other is None or other == one else (one, other)

    cdef bint show_participant(self, object conference, object call, object phase, object name, object at_ms) except -1:
        cdef Out* out = &self.facts
        _put(out, 0x96)
        _put(out, 2)
        _put_text(out, conference)
        _put_text(out, call)
        _put_text(out, phase)
        _put_text(out, name)
        _put_instant(out, at_ms)
        self.count += 1
        self.kinds |= PARTICIPANT_KIND
        return True

    cdef bint show_conference(self, object conference, object name, object phase, object at_ms, object on) except -1:
        cdef Out* out = &self.facts
        _put(out, 0x96)
        _put(out, 3)
        _put_text(out, conference)
        _put_text(out, name)
        _put_text(out, phase)
        _put_instant(out, at_ms)
        _put(out, 0xC0 if on is None else 0xC2)
        self.count += 1
        self.kinds |= CONFERENCE_KIND
        return True

    # ----------------------------------------------------------------- into the window

    cdef object enter(self, object code, object event_id, object offset, object arrived_ms):
        """Find the conversation, and keep there what the event shows."""
        cdef PyObject* found = PyDict_GetItemWithError(self.accounts, self.account)
        cdef bint complete = True, joined = True
        cdef bint timeless = self.kinds & (CALL_KIND | TASK_KIND)
        cdef bint timed = not timeless or self.room is not None
        cdef Out kept
        cdef unsigned char digest[DIGEST]
        cdef Py_ssize_t size, place = 0
        cdef const char* utf8
        cdef const unsigned char* at
        cdef bytes ids
        cdef Py_ssize_t room_left
        window = self.window
        if found is NULL or not _is_text(event_id) or arrived_ms >= self.nailed.due_ms or window.cold_after_ms <= 0:
            return None
        account = <object> found
        cdef dict index = account.index
        conversation = None
        room_left = window.entries_max
        utf8 = PyUnicode_AsUTF8AndSize(event_id, &size)
        _digest(<const unsigned char*> utf8, size, digest)
        for member in self.members:
            found = PyDict_GetItemWithError(index, member)
            if found is NULL:
                complete = False
                continue
            if <object> found is conversation:
                continue
            if conversation is None:
                conversation = <object> found
            else:
                joined = False
            other = <object> found
            ids = other.ids
            if _holds(<const unsigned char*> PyBytes_AS_STRING(ids), PyBytes_GET_SIZE(ids), digest) or other.claims:
                return None
            room_left -= max(other.kept, other.properties_kept)
        if room_left <= 0:
            return None
        guests = account.guests
        if guests is not None and not guests.notes.watched.isdisjoint(self.members):
            return None
        if self.call is not None and conversation is not None and (not joined or conversation.conferences > complete):
            # A call may have been seen in a second conference (``Nailed.see``).
            if guests is not None or moves(index, self.call, self.room):
                return None
        if timeless and joined and conversation is not None and conversation.packed:
            return None
        if timed:
            # The event as it is kept: array of five, of which the last are its facts.
            kept.size, kept.full = 0, False
            _put(&kept, 0x95)
            _put_whole(&kept, self.occurred_ms)
            _put_whole(&kept, offset)
            _put_text(&kept, event_id)
            if type(code) is int:
                _put_whole(&kept, code)
            else:
                _put_text(&kept, code)
            _put(&kept, 0x90 | self.count)
            if kept.full or kept.size + self.facts.size > OUT_MAX:
                return None
            memcpy(kept.bytes + kept.size, self.facts.bytes, self.facts.size)
            kept.size += self.facts.size

        # From here on it is folded.
        if window._saver is not None:
            for member in self.members:
                if member in index:
                    window._saver.before(index[member])
        if window.renewed:
            window.renewed.clear()
        if conversation is None:
            conversation = window._begin(account.sid, offset, arrived_ms)
        elif not joined:
            conversation = window._gather(account, self.members)
        if not complete:
            window._add_members(account, conversation, self.members)
        conversation.ids = _join(conversation.ids, digest, DIGEST)
        conversation.last_ms = arrived_ms
        if offset % LOOK_EVERY == 0:
            window.look_for_cold(arrived_ms)
        cdef bytes properties, stamp
        if timeless:
            properties, stamp = conversation.properties, self.nailed.stamp
            at = find_bytes(<const unsigned char*> PyBytes_AS_STRING(properties), PyBytes_GET_SIZE(properties),
                            self.facts.bytes, self.facts.size)
            if at is not NULL:
                place = at - <const unsigned char*> PyBytes_AS_STRING(properties) + self.facts.size
                if memcmp(PyBytes_AS_STRING(properties) + place, PyBytes_AS_STRING(stamp), STAMP):
                    conversation.properties = properties[:place] + stamp + properties[place + STAMP :]
                return conversation, 0
            conversation.properties = _join(properties, self.facts.bytes, self.facts.size) + stamp
            conversation.properties_kept += 1
        focus = conversation.focus
        cdef int new = self.kinds
        if focus is not None:
            new = 0
            for fact in self.as_read():
                if is_news(account, focus, fact, self.occurred_ms):
                    new |= KIND[type(fact)]
        if not timed:
            return conversation, new
        cdef bytes evidence = _join(conversation.evidence, kept.bytes, kept.size)
        conversation.evidence = evidence
        conversation.kept += 1
        if conversation.cold and PyBytes_GET_SIZE(evidence) > COLD_TAIL_BYTES:
            window._warm_up(conversation)
        if self.name is not None and self.sees_room(conversation):
            for fact in self.as_read():
                window._bind(account, conversation, fact, self.occurred_ms, arrived_ms, offset, 0)
                conversation = index[self.members[0]]  # A binding may have poured it into another one.
        return conversation, new

    cdef object as_read(self):
        """The facts at hand as the structs that they are."""
        return _decode_facts(bytes([0x90 | self.count]) + self.facts.bytes[: self.facts.size])

    cdef bint sees_room(self, object conversation) except -1:
        """Whether something follows from the sight of a room: from most nothing does."""
        for room in conversation.rooms:
            if room.conference == self.room and room.name == self.name:
                return self.first_ms < room.first_ms or self.end_ms is not None
        return True


cdef bytes _join(bytes one, const unsigned char* other, Py_ssize_t size):
    """Bytes with some more behind them."""
    cdef Py_ssize_t before = PyBytes_GET_SIZE(one)
    cdef bytes both = PyBytes_FromStringAndSize(NULL, before + size)
    memcpy(PyBytes_AS_STRING(both), PyBytes_AS_STRING(one), before)
    memcpy(PyBytes_AS_STRING(both) + before, other, size)
    return both


_VOICE = "com.twilio.voice."
_FAMILIES = (
    (_VOICE + "status-callback.call.", _CALL),
    (PARTICIPANT, _PARTICIPANT),
    (_VOICE + "status-callback.conference.updated", _CONFERENCE),
    (_VOICE + "insights.call-summary.", _CALL_SUMMARY),
    (_VOICE + "insights.conference-participant-summary.", _PARTICIPANT_SUMMARY),
    (_VOICE + "insights.participant-summary.", _PARTICIPANT_SUMMARY),
    (_VOICE + "insights.conference-summary.", _CONFERENCE_SUMMARY),
    ("com.twilio.taskrouter.task.", _TASK),
    ("com.twilio.taskrouter.reservation.", _TASK),
    ("com.twilio.studio.flow.step.ended", _STEP),
    ("com.twilio.studio.flow.execution.started", _EXECUTION),
    ("com.twilio.studio.flow.execution.ended", _EXECUTION_ENDED),
    (_VOICE + "twiml.call.requested", _TWIML),
    (_VOICE + "twiml.call.redirected", _TWIML),
    (_VOICE + "twiml.gather.finished", _TWIML),
    (_VOICE + "twiml.enqueue.finished", _TWIML),
)

# Of every envelope that may take the fast path: our name of its type, its family, what stands for the type in evidence.
FAST = {
    envelope: (kind, family, TYPE_CODES.get(kind, kind))
    for envelope, (kind, read) in BY_ENVELOPE.items()
    for prefix, family in (*_FAMILIES, ("", _IGNORED))
    if (is_ignored(read) if family == _IGNORED else kind.startswith(prefix))
}
