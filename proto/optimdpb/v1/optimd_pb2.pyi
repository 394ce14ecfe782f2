import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_NAME: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_LAYOUT: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_SPEC: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_JOB: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_LAYOUT_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_UPLOADER: _ClassVar[ErrorReason]
    ERROR_REASON_PAYLOAD_SIZE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_CHUNK_OUT_OF_ORDER: _ClassVar[ErrorReason]
    ERROR_REASON_CHECKSUM_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_NON_FINITE_PARAMETERS: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED_ENCODING: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_SERVED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_JOINED: _ClassVar[ErrorReason]
    ERROR_REASON_EPOCH_SUPERSEDED: _ClassVar[ErrorReason]
    ERROR_REASON_LEASE_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_SEQ_GAP: _ClassVar[ErrorReason]
    ERROR_REASON_SEQ_FORGOTTEN: _ClassVar[ErrorReason]
    ERROR_REASON_PUSH_IN_FLIGHT: _ClassVar[ErrorReason]
    ERROR_REASON_PUSH_SUPERSEDED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_PUSH: _ClassVar[ErrorReason]
    ERROR_REASON_BACKLOG_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_REVISION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_NO_DATA_DIRECTORY: _ClassVar[ErrorReason]
    ERROR_REASON_STORAGE_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_SNAPSHOT_REFUSED: _ClassVar[ErrorReason]
    ERROR_REASON_WORKER_SET_ASIDE: _ClassVar[ErrorReason]
    ERROR_REASON_STEP_PASSED: _ClassVar[ErrorReason]
    ERROR_REASON_WRONG_STATE: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_UPDATE: _ClassVar[ErrorReason]
    ERROR_REASON_NO_RANGE_TEST: _ClassVar[ErrorReason]
    ERROR_REASON_SHARED_MEMORY_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SHARED_MEMORY_GONE: _ClassVar[ErrorReason]
    ERROR_REASON_PULL_TOO_SLOW: _ClassVar[ErrorReason]
    ERROR_REASON_PUSH_TOO_SLOW: _ClassVar[ErrorReason]
    ERROR_REASON_STARTING_UP: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_DELETED: _ClassVar[ErrorReason]

class TensorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_KIND_UNSPECIFIED: _ClassVar[TensorKind]
    TENSOR_KIND_TRAINABLE: _ClassVar[TensorKind]
    TENSOR_KIND_BUFFER: _ClassVar[TensorKind]

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUCTION_UNSPECIFIED: _ClassVar[Reduction]
    REDUCTION_MEAN: _ClassVar[Reduction]
    REDUCTION_SUM: _ClassVar[Reduction]

class SGDMForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SGDM_FORM_UNSPECIFIED: _ClassVar[SGDMForm]
    SGDM_FORM_HEAVY_BALL: _ClassVar[SGDMForm]
    SGDM_FORM_EMA: _ClassVar[SGDMForm]
    SGDM_FORM_LR_INSIDE: _ClassVar[SGDMForm]

class VInit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    V_INIT_UNSPECIFIED: _ClassVar[VInit]
    V_INIT_ZERO: _ClassVar[VInit]
    V_INIT_FIRST: _ClassVar[VInit]

class CyclicalPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CYCLICAL_POLICY_UNSPECIFIED: _ClassVar[CyclicalPolicy]
    CYCLICAL_POLICY_TRIANGULAR: _ClassVar[CyclicalPolicy]
    CYCLICAL_POLICY_TRIANGULAR2: _ClassVar[CyclicalPolicy]
    CYCLICAL_POLICY_EXP_RANGE: _ClassVar[CyclicalPolicy]

class Interpolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERPOLATION_UNSPECIFIED: _ClassVar[Interpolation]
    INTERPOLATION_LINEAR: _ClassVar[Interpolation]
    INTERPOLATION_CONSTANT: _ClassVar[Interpolation]

class StalenessScale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STALENESS_SCALE_UNSPECIFIED: _ClassVar[StalenessScale]
    STALENESS_SCALE_NONE: _ClassVar[StalenessScale]
    STALENESS_SCALE_INVERSE: _ClassVar[StalenessScale]

class CreateDisposition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CREATE_DISPOSITION_UNSPECIFIED: _ClassVar[CreateDisposition]
    CREATE_DISPOSITION_UPLOAD: _ClassVar[CreateDisposition]
    CREATE_DISPOSITION_WAIT: _ClassVar[CreateDisposition]
    CREATE_DISPOSITION_READY: _ClassVar[CreateDisposition]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_INITIALIZING: _ClassVar[JobState]
    JOB_STATE_READY: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]
    JOB_STATE_RANGE_TEST: _ClassVar[JobState]
    JOB_STATE_READ_ONLY: _ClassVar[JobState]
    JOB_STATE_FINISHED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]

class Sweep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SWEEP_UNSPECIFIED: _ClassVar[Sweep]
    SWEEP_EXPONENTIAL: _ClassVar[Sweep]
    SWEEP_LINEAR: _ClassVar[Sweep]

class RangeTestEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RANGE_TEST_END_UNSPECIFIED: _ClassVar[RangeTestEnd]
    RANGE_TEST_END_COMPLETED: _ClassVar[RangeTestEnd]
    RANGE_TEST_END_DIVERGED: _ClassVar[RangeTestEnd]
    RANGE_TEST_END_NO_LOSS: _ClassVar[RangeTestEnd]
    RANGE_TEST_END_STOPPED: _ClassVar[RangeTestEnd]
    RANGE_TEST_END_NO_MEMORY: _ClassVar[RangeTestEnd]

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    TRANSPORT_GRPC: _ClassVar[Transport]
    TRANSPORT_SHARED_MEMORY: _ClassVar[Transport]
    TRANSPORT_UNIX_SOCKET: _ClassVar[Transport]

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_F32: _ClassVar[Encoding]
    ENCODING_BF16: _ClassVar[Encoding]
    ENCODING_INT8_BLOCK: _ClassVar[Encoding]

class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_UNSPECIFIED: _ClassVar[View]
    VIEW_TRAIN: _ClassVar[View]
    VIEW_EVAL: _ClassVar[View]

class PushState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUSH_STATE_UNSPECIFIED: _ClassVar[PushState]
    PUSH_STATE_DONE: _ClassVar[PushState]
    PUSH_STATE_WAITING: _ClassVar[PushState]
    PUSH_STATE_UNKNOWN: _ClassVar[PushState]

class OutcomeStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_STATUS_UNSPECIFIED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_APPLIED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_DISCARDED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_REJECTED: _ClassVar[OutcomeStatus]

class OutcomeReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_REASON_UNSPECIFIED: _ClassVar[OutcomeReason]
    OUTCOME_REASON_LATE: _ClassVar[OutcomeReason]
    OUTCOME_REASON_FINISHED: _ClassVar[OutcomeReason]
    OUTCOME_REASON_ROUND_VOID: _ClassVar[OutcomeReason]
    OUTCOME_REASON_LINEAGE_CHANGED: _ClassVar[OutcomeReason]
    OUTCOME_REASON_STALE: _ClassVar[OutcomeReason]
    OUTCOME_REASON_NON_FINITE: _ClassVar[OutcomeReason]
    OUTCOME_REASON_TOO_LARGE: _ClassVar[OutcomeReason]
    OUTCOME_REASON_BASE_IN_FUTURE: _ClassVar[OutcomeReason]
    OUTCOME_REASON_NOT_A_MEMBER: _ClassVar[OutcomeReason]

class Location(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCATION_UNSPECIFIED: _ClassVar[Location]
    LOCATION_SHARED: _ClassVar[Location]
    LOCATION_COPY: _ClassVar[Location]
    LOCATION_NONE: _ClassVar[Location]

class Segment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_UNSPECIFIED: _ClassVar[Segment]
    SEGMENT_GRADIENT: _ClassVar[Segment]
    SEGMENT_PARAMETERS: _ClassVar[Segment]
    SEGMENT_COPY: _ClassVar[Segment]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_MALFORMED_REQUEST: ErrorReason
ERROR_REASON_INVALID_NAME: ErrorReason
ERROR_REASON_INVALID_LAYOUT: ErrorReason
ERROR_REASON_INVALID_SPEC: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_UNKNOWN_JOB: ErrorReason
ERROR_REASON_JOB_NOT_READY: ErrorReason
ERROR_REASON_JOB_MISMATCH: ErrorReason
ERROR_REASON_LAYOUT_MISMATCH: ErrorReason
ERROR_REASON_NOT_UPLOADER: ErrorReason
ERROR_REASON_PAYLOAD_SIZE_MISMATCH: ErrorReason
ERROR_REASON_CHUNK_OUT_OF_ORDER: ErrorReason
ERROR_REASON_CHECKSUM_MISMATCH: ErrorReason
ERROR_REASON_NON_FINITE_PARAMETERS: ErrorReason
ERROR_REASON_UNSUPPORTED_ENCODING: ErrorReason
ERROR_REASON_NOT_SERVED: ErrorReason
ERROR_REASON_NOT_JOINED: ErrorReason
ERROR_REASON_EPOCH_SUPERSEDED: ErrorReason
ERROR_REASON_LEASE_EXPIRED: ErrorReason
ERROR_REASON_SEQ_GAP: ErrorReason
ERROR_REASON_SEQ_FORGOTTEN: ErrorReason
ERROR_REASON_PUSH_IN_FLIGHT: ErrorReason
ERROR_REASON_PUSH_SUPERSEDED: ErrorReason
ERROR_REASON_INVALID_PUSH: ErrorReason
ERROR_REASON_BACKLOG_FULL: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_REVISION_MISMATCH: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_NO_DATA_DIRECTORY: ErrorReason
ERROR_REASON_STORAGE_FAILED: ErrorReason
ERROR_REASON_SNAPSHOT_REFUSED: ErrorReason
ERROR_REASON_WORKER_SET_ASIDE: ErrorReason
ERROR_REASON_STEP_PASSED: ErrorReason
ERROR_REASON_WRONG_STATE: ErrorReason
ERROR_REASON_INVALID_UPDATE: ErrorReason
ERROR_REASON_NO_RANGE_TEST: ErrorReason
ERROR_REASON_SHARED_MEMORY_UNAVAILABLE: ErrorReason
ERROR_REASON_SHARED_MEMORY_GONE: ErrorReason
ERROR_REASON_PULL_TOO_SLOW: ErrorReason
ERROR_REASON_PUSH_TOO_SLOW: ErrorReason
ERROR_REASON_STARTING_UP: ErrorReason
ERROR_REASON_JOB_FAILED: ErrorReason
ERROR_REASON_JOB_DELETED: ErrorReason
TENSOR_KIND_UNSPECIFIED: TensorKind
TENSOR_KIND_TRAINABLE: TensorKind
TENSOR_KIND_BUFFER: TensorKind
REDUCTION_UNSPECIFIED: Reduction
REDUCTION_MEAN: Reduction
REDUCTION_SUM: Reduction
SGDM_FORM_UNSPECIFIED: SGDMForm
SGDM_FORM_HEAVY_BALL: SGDMForm
SGDM_FORM_EMA: SGDMForm
SGDM_FORM_LR_INSIDE: SGDMForm
V_INIT_UNSPECIFIED: VInit
V_INIT_ZERO: VInit
V_INIT_FIRST: VInit
CYCLICAL_POLICY_UNSPECIFIED: CyclicalPolicy
CYCLICAL_POLICY_TRIANGULAR: CyclicalPolicy
CYCLICAL_POLICY_TRIANGULAR2: CyclicalPolicy
CYCLICAL_POLICY_EXP_RANGE: CyclicalPolicy
INTERPOLATION_UNSPECIFIED: Interpolation
INTERPOLATION_LINEAR: Interpolation
INTERPOLATION_CONSTANT: Interpolation
STALENESS_SCALE_UNSPECIFIED: StalenessScale
STALENESS_SCALE_NONE: StalenessScale
STALENESS_SCALE_INVERSE: StalenessScale
CREATE_DISPOSITION_UNSPECIFIED: CreateDisposition
CREATE_DISPOSITION_UPLOAD: CreateDisposition
CREATE_DISPOSITION_WAIT: CreateDisposition
CREATE_DISPOSITION_READY: CreateDisposition
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_INITIALIZING: JobState
JOB_STATE_READY: JobState
JOB_STATE_PAUSED: JobState
JOB_STATE_RANGE_TEST: JobState
JOB_STATE_READ_ONLY: JobState
JOB_STATE_FINISHED: JobState
JOB_STATE_FAILED: JobState
SWEEP_UNSPECIFIED: Sweep
SWEEP_EXPONENTIAL: Sweep
SWEEP_LINEAR: Sweep
RANGE_TEST_END_UNSPECIFIED: RangeTestEnd
RANGE_TEST_END_COMPLETED: RangeTestEnd
RANGE_TEST_END_DIVERGED: RangeTestEnd
RANGE_TEST_END_NO_LOSS: RangeTestEnd
RANGE_TEST_END_STOPPED: RangeTestEnd
RANGE_TEST_END_NO_MEMORY: RangeTestEnd
TRANSPORT_UNSPECIFIED: Transport
TRANSPORT_GRPC: Transport
TRANSPORT_SHARED_MEMORY: Transport
TRANSPORT_UNIX_SOCKET: Transport
ENCODING_UNSPECIFIED: Encoding
ENCODING_F32: Encoding
ENCODING_BF16: Encoding
ENCODING_INT8_BLOCK: Encoding
VIEW_UNSPECIFIED: View
VIEW_TRAIN: View
VIEW_EVAL: View
PUSH_STATE_UNSPECIFIED: PushState
PUSH_STATE_DONE: PushState
PUSH_STATE_WAITING: PushState
PUSH_STATE_UNKNOWN: PushState
OUTCOME_STATUS_UNSPECIFIED: OutcomeStatus
OUTCOME_STATUS_APPLIED: OutcomeStatus
OUTCOME_STATUS_DISCARDED: OutcomeStatus
OUTCOME_STATUS_REJECTED: OutcomeStatus
OUTCOME_REASON_UNSPECIFIED: OutcomeReason
OUTCOME_REASON_LATE: OutcomeReason
OUTCOME_REASON_FINISHED: OutcomeReason
OUTCOME_REASON_ROUND_VOID: OutcomeReason
OUTCOME_REASON_LINEAGE_CHANGED: OutcomeReason
OUTCOME_REASON_STALE: OutcomeReason
OUTCOME_REASON_NON_FINITE: OutcomeReason
OUTCOME_REASON_TOO_LARGE: OutcomeReason
OUTCOME_REASON_BASE_IN_FUTURE: OutcomeReason
OUTCOME_REASON_NOT_A_MEMBER: OutcomeReason
LOCATION_UNSPECIFIED: Location
LOCATION_SHARED: Location
LOCATION_COPY: Location
LOCATION_NONE: Location
SEGMENT_UNSPECIFIED: Segment
SEGMENT_GRADIENT: Segment
SEGMENT_PARAMETERS: Segment
SEGMENT_COPY: Segment

class Header(_message.Message):
    __slots__ = ("lineage", "step", "incarnation")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    step: int
    incarnation: str
    def __init__(self, lineage: _Optional[str] = ..., step: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("lineage", "step")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    step: int
    def __init__(self, lineage: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("chunk_bytes_max", "step_bytes_max", "wait_ms_max", "parameters_bytes_max", "tensors_max", "workers_max", "jobs_max", "staging_bytes_max", "calls_max", "push_ms_max", "state_bytes_max", "spec_bytes_max", "groups_max")
    CHUNK_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    STEP_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    TENSORS_MAX_FIELD_NUMBER: _ClassVar[int]
    WORKERS_MAX_FIELD_NUMBER: _ClassVar[int]
    JOBS_MAX_FIELD_NUMBER: _ClassVar[int]
    STAGING_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    CALLS_MAX_FIELD_NUMBER: _ClassVar[int]
    PUSH_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SPEC_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    GROUPS_MAX_FIELD_NUMBER: _ClassVar[int]
    chunk_bytes_max: int
    step_bytes_max: int
    wait_ms_max: int
    parameters_bytes_max: int
    tensors_max: int
    workers_max: int
    jobs_max: int
    staging_bytes_max: int
    calls_max: int
    push_ms_max: int
    state_bytes_max: int
    spec_bytes_max: int
    groups_max: int
    def __init__(self, chunk_bytes_max: _Optional[int] = ..., step_bytes_max: _Optional[int] = ..., wait_ms_max: _Optional[int] = ..., parameters_bytes_max: _Optional[int] = ..., tensors_max: _Optional[int] = ..., workers_max: _Optional[int] = ..., jobs_max: _Optional[int] = ..., staging_bytes_max: _Optional[int] = ..., calls_max: _Optional[int] = ..., push_ms_max: _Optional[int] = ..., state_bytes_max: _Optional[int] = ..., spec_bytes_max: _Optional[int] = ..., groups_max: _Optional[int] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("incarnation", "server_version", "limits")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    server_version: str
    limits: Limits
    def __init__(self, incarnation: _Optional[str] = ..., server_version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "shape", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    kind: TensorKind
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., kind: _Optional[_Union[TensorKind, str]] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("layout", "optimizer", "consistency", "reduction", "clip", "steps_max", "groups", "rejections_max")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    optimizer: Optimizer
    consistency: Consistency
    reduction: Reduction
    clip: Clip
    steps_max: int
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    rejections_max: int
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., optimizer: _Optional[_Union[Optimizer, _Mapping]] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., clip: _Optional[_Union[Clip, _Mapping]] = ..., steps_max: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., rejections_max: _Optional[int] = ...) -> None: ...

class Clip(_message.Message):
    __slots__ = ("global_norm", "tensor_norm", "value")
    GLOBAL_NORM_FIELD_NUMBER: _ClassVar[int]
    TENSOR_NORM_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    global_norm: float
    tensor_norm: float
    value: float
    def __init__(self, global_norm: _Optional[float] = ..., tensor_norm: _Optional[float] = ..., value: _Optional[float] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("pattern", "lr_multiplier", "frozen", "hyper_parameters", "ndim_min", "ndim_max")
    class HyperParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    LR_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    HYPER_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NDIM_MIN_FIELD_NUMBER: _ClassVar[int]
    NDIM_MAX_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    lr_multiplier: float
    frozen: bool
    hyper_parameters: _containers.ScalarMap[str, float]
    ndim_min: int
    ndim_max: int
    def __init__(self, pattern: _Optional[str] = ..., lr_multiplier: _Optional[float] = ..., frozen: bool = ..., hyper_parameters: _Optional[_Mapping[str, float]] = ..., ndim_min: _Optional[int] = ..., ndim_max: _Optional[int] = ...) -> None: ...

class Optimizer(_message.Message):
    __slots__ = ("sgd", "sgdm", "adam", "sgdw", "adagrad", "adadelta", "rmsprop", "adamw", "amsgrad", "adamax", "nadam", "radam", "yogi", "adabound", "swats", "lion", "lars", "lamb", "schedules")
    class SchedulesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Schedule
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...
    SGD_FIELD_NUMBER: _ClassVar[int]
    SGDM_FIELD_NUMBER: _ClassVar[int]
    ADAM_FIELD_NUMBER: _ClassVar[int]
    SGDW_FIELD_NUMBER: _ClassVar[int]
    ADAGRAD_FIELD_NUMBER: _ClassVar[int]
    ADADELTA_FIELD_NUMBER: _ClassVar[int]
    RMSPROP_FIELD_NUMBER: _ClassVar[int]
    ADAMW_FIELD_NUMBER: _ClassVar[int]
    AMSGRAD_FIELD_NUMBER: _ClassVar[int]
    ADAMAX_FIELD_NUMBER: _ClassVar[int]
    NADAM_FIELD_NUMBER: _ClassVar[int]
    RADAM_FIELD_NUMBER: _ClassVar[int]
    YOGI_FIELD_NUMBER: _ClassVar[int]
    ADABOUND_FIELD_NUMBER: _ClassVar[int]
    SWATS_FIELD_NUMBER: _ClassVar[int]
    LION_FIELD_NUMBER: _ClassVar[int]
    LARS_FIELD_NUMBER: _ClassVar[int]
    LAMB_FIELD_NUMBER: _ClassVar[int]
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    sgd: SGD
    sgdm: SGDM
    adam: Adam
    sgdw: SGDW
    adagrad: Adagrad
    adadelta: Adadelta
    rmsprop: RMSProp
    adamw: AdamW
    amsgrad: AMSGrad
    adamax: Adamax
    nadam: NAdam
    radam: RAdam
    yogi: Yogi
    adabound: AdaBound
    swats: SWATS
    lion: Lion
    lars: LARS
    lamb: LAMB
    schedules: _containers.MessageMap[str, Schedule]
    def __init__(self, sgd: _Optional[_Union[SGD, _Mapping]] = ..., sgdm: _Optional[_Union[SGDM, _Mapping]] = ..., adam: _Optional[_Union[Adam, _Mapping]] = ..., sgdw: _Optional[_Union[SGDW, _Mapping]] = ..., adagrad: _Optional[_Union[Adagrad, _Mapping]] = ..., adadelta: _Optional[_Union[Adadelta, _Mapping]] = ..., rmsprop: _Optional[_Union[RMSProp, _Mapping]] = ..., adamw: _Optional[_Union[AdamW, _Mapping]] = ..., amsgrad: _Optional[_Union[AMSGrad, _Mapping]] = ..., adamax: _Optional[_Union[Adamax, _Mapping]] = ..., nadam: _Optional[_Union[NAdam, _Mapping]] = ..., radam: _Optional[_Union[RAdam, _Mapping]] = ..., yogi: _Optional[_Union[Yogi, _Mapping]] = ..., adabound: _Optional[_Union[AdaBound, _Mapping]] = ..., swats: _Optional[_Union[SWATS, _Mapping]] = ..., lion: _Optional[_Union[Lion, _Mapping]] = ..., lars: _Optional[_Union[LARS, _Mapping]] = ..., lamb: _Optional[_Union[LAMB, _Mapping]] = ..., schedules: _Optional[_Mapping[str, Schedule]] = ...) -> None: ...

class SGD(_message.Message):
    __slots__ = ("lr", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class SGDM(_message.Message):
    __slots__ = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "form")
    LR_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    DAMPENING_FIELD_NUMBER: _ClassVar[int]
    NESTEROV_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    momentum: float
    dampening: float
    nesterov: bool
    weight_decay: float
    form: SGDMForm
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., momentum: _Optional[float] = ..., dampening: _Optional[float] = ..., nesterov: bool = ..., weight_decay: _Optional[float] = ..., form: _Optional[_Union[SGDMForm, str]] = ...) -> None: ...

class Adam(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "eps_root", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    EPS_ROOT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    eps_root: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., eps_root: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class SGDW(_message.Message):
    __slots__ = ("lr", "momentum", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    momentum: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., momentum: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class Adagrad(_message.Message):
    __slots__ = ("lr", "eps", "initial_accumulator", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_ACCUMULATOR_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    eps: float
    initial_accumulator: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., eps: _Optional[float] = ..., initial_accumulator: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class Adadelta(_message.Message):
    __slots__ = ("lr", "rho", "eps")
    LR_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    rho: float
    eps: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., rho: _Optional[float] = ..., eps: _Optional[float] = ...) -> None: ...

class RMSProp(_message.Message):
    __slots__ = ("lr", "alpha", "eps", "centered", "momentum", "v_init")
    LR_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    CENTERED_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    V_INIT_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    alpha: float
    eps: float
    centered: bool
    momentum: float
    v_init: VInit
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., alpha: _Optional[float] = ..., eps: _Optional[float] = ..., centered: bool = ..., momentum: _Optional[float] = ..., v_init: _Optional[_Union[VInit, str]] = ...) -> None: ...

class AdamW(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "eps_root", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    EPS_ROOT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    eps_root: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., eps_root: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class AMSGrad(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "eps_root", "weight_decay", "debias")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    EPS_ROOT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    DEBIAS_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    eps_root: float
    weight_decay: float
    debias: bool
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., eps_root: _Optional[float] = ..., weight_decay: _Optional[float] = ..., debias: bool = ...) -> None: ...

class Adamax(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ...) -> None: ...

class NAdam(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "momentum_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    momentum_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., momentum_decay: _Optional[float] = ...) -> None: ...

class RAdam(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ...) -> None: ...

class Yogi(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ...) -> None: ...

class AdaBound(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "final_lr", "gamma", "amsbound")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    FINAL_LR_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    AMSBOUND_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    final_lr: float
    gamma: float
    amsbound: bool
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., final_lr: _Optional[float] = ..., gamma: _Optional[float] = ..., amsbound: bool = ...) -> None: ...

class SWATS(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "switch_tolerance")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    SWITCH_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    switch_tolerance: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., switch_tolerance: _Optional[float] = ...) -> None: ...

class Lion(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class LARS(_message.Message):
    __slots__ = ("lr", "momentum", "weight_decay", "trust_coefficient")
    LR_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    TRUST_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    momentum: float
    weight_decay: float
    trust_coefficient: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., momentum: _Optional[float] = ..., weight_decay: _Optional[float] = ..., trust_coefficient: _Optional[float] = ...) -> None: ...

class LAMB(_message.Message):
    __slots__ = ("lr", "beta1", "beta2", "eps", "weight_decay")
    LR_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    lr: Schedule
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    def __init__(self, lr: _Optional[_Union[Schedule, _Mapping]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("constant", "linear", "cosine", "warmup", "polynomial", "step", "multi_step", "exponential", "inverse_sqrt", "sgdr", "cyclical", "one_cycle", "warmup_stable_decay", "sequence", "table", "plateau")
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    LINEAR_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FIELD_NUMBER: _ClassVar[int]
    POLYNOMIAL_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MULTI_STEP_FIELD_NUMBER: _ClassVar[int]
    EXPONENTIAL_FIELD_NUMBER: _ClassVar[int]
    INVERSE_SQRT_FIELD_NUMBER: _ClassVar[int]
    SGDR_FIELD_NUMBER: _ClassVar[int]
    CYCLICAL_FIELD_NUMBER: _ClassVar[int]
    ONE_CYCLE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STABLE_DECAY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PLATEAU_FIELD_NUMBER: _ClassVar[int]
    constant: Constant
    linear: Linear
    cosine: Cosine
    warmup: Warmup
    polynomial: Polynomial
    step: Step
    multi_step: MultiStep
    exponential: Exponential
    inverse_sqrt: InverseSqrt
    sgdr: SGDR
    cyclical: Cyclical
    one_cycle: OneCycle
    warmup_stable_decay: WarmupStableDecay
    sequence: Sequence
    table: Table
    plateau: Plateau
    def __init__(self, constant: _Optional[_Union[Constant, _Mapping]] = ..., linear: _Optional[_Union[Linear, _Mapping]] = ..., cosine: _Optional[_Union[Cosine, _Mapping]] = ..., warmup: _Optional[_Union[Warmup, _Mapping]] = ..., polynomial: _Optional[_Union[Polynomial, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., multi_step: _Optional[_Union[MultiStep, _Mapping]] = ..., exponential: _Optional[_Union[Exponential, _Mapping]] = ..., inverse_sqrt: _Optional[_Union[InverseSqrt, _Mapping]] = ..., sgdr: _Optional[_Union[SGDR, _Mapping]] = ..., cyclical: _Optional[_Union[Cyclical, _Mapping]] = ..., one_cycle: _Optional[_Union[OneCycle, _Mapping]] = ..., warmup_stable_decay: _Optional[_Union[WarmupStableDecay, _Mapping]] = ..., sequence: _Optional[_Union[Sequence, _Mapping]] = ..., table: _Optional[_Union[Table, _Mapping]] = ..., plateau: _Optional[_Union[Plateau, _Mapping]] = ...) -> None: ...

class Constant(_message.Message):
    __slots__ = ("lr",)
    LR_FIELD_NUMBER: _ClassVar[int]
    lr: float
    def __init__(self, lr: _Optional[float] = ...) -> None: ...

class Linear(_message.Message):
    __slots__ = ("lr_start", "lr_end", "steps")
    LR_START_FIELD_NUMBER: _ClassVar[int]
    LR_END_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    lr_start: float
    lr_end: float
    steps: int
    def __init__(self, lr_start: _Optional[float] = ..., lr_end: _Optional[float] = ..., steps: _Optional[int] = ...) -> None: ...

class Cosine(_message.Message):
    __slots__ = ("lr_max", "lr_min", "steps")
    LR_MAX_FIELD_NUMBER: _ClassVar[int]
    LR_MIN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    lr_max: float
    lr_min: float
    steps: int
    def __init__(self, lr_max: _Optional[float] = ..., lr_min: _Optional[float] = ..., steps: _Optional[int] = ...) -> None: ...

class Warmup(_message.Message):
    __slots__ = ("schedule", "steps")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    steps: int
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., steps: _Optional[int] = ...) -> None: ...

class Polynomial(_message.Message):
    __slots__ = ("lr_start", "lr_end", "steps", "power")
    LR_START_FIELD_NUMBER: _ClassVar[int]
    LR_END_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    lr_start: float
    lr_end: float
    steps: int
    power: float
    def __init__(self, lr_start: _Optional[float] = ..., lr_end: _Optional[float] = ..., steps: _Optional[int] = ..., power: _Optional[float] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("lr", "step_size", "gamma")
    LR_FIELD_NUMBER: _ClassVar[int]
    STEP_SIZE_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    lr: float
    step_size: int
    gamma: float
    def __init__(self, lr: _Optional[float] = ..., step_size: _Optional[int] = ..., gamma: _Optional[float] = ...) -> None: ...

class MultiStep(_message.Message):
    __slots__ = ("lr", "milestones", "gamma")
    LR_FIELD_NUMBER: _ClassVar[int]
    MILESTONES_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    lr: float
    milestones: _containers.RepeatedScalarFieldContainer[int]
    gamma: float
    def __init__(self, lr: _Optional[float] = ..., milestones: _Optional[_Iterable[int]] = ..., gamma: _Optional[float] = ...) -> None: ...

class Exponential(_message.Message):
    __slots__ = ("lr", "gamma")
    LR_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    lr: float
    gamma: float
    def __init__(self, lr: _Optional[float] = ..., gamma: _Optional[float] = ...) -> None: ...

class InverseSqrt(_message.Message):
    __slots__ = ("lr", "warmup_steps")
    LR_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    lr: float
    warmup_steps: int
    def __init__(self, lr: _Optional[float] = ..., warmup_steps: _Optional[int] = ...) -> None: ...

class SGDR(_message.Message):
    __slots__ = ("lr_max", "lr_min", "period", "period_mult", "decay")
    LR_MAX_FIELD_NUMBER: _ClassVar[int]
    LR_MIN_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_MULT_FIELD_NUMBER: _ClassVar[int]
    DECAY_FIELD_NUMBER: _ClassVar[int]
    lr_max: float
    lr_min: float
    period: int
    period_mult: int
    decay: float
    def __init__(self, lr_max: _Optional[float] = ..., lr_min: _Optional[float] = ..., period: _Optional[int] = ..., period_mult: _Optional[int] = ..., decay: _Optional[float] = ...) -> None: ...

class Cyclical(_message.Message):
    __slots__ = ("lr_min", "lr_max", "step_size", "policy", "gamma")
    LR_MIN_FIELD_NUMBER: _ClassVar[int]
    LR_MAX_FIELD_NUMBER: _ClassVar[int]
    STEP_SIZE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    lr_min: float
    lr_max: float
    step_size: int
    policy: CyclicalPolicy
    gamma: float
    def __init__(self, lr_min: _Optional[float] = ..., lr_max: _Optional[float] = ..., step_size: _Optional[int] = ..., policy: _Optional[_Union[CyclicalPolicy, str]] = ..., gamma: _Optional[float] = ...) -> None: ...

class OneCycle(_message.Message):
    __slots__ = ("lr_max", "steps", "pct_start", "div_factor", "final_div_factor", "momentum_min", "momentum_max")
    LR_MAX_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PCT_START_FIELD_NUMBER: _ClassVar[int]
    DIV_FACTOR_FIELD_NUMBER: _ClassVar[int]
    FINAL_DIV_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_MIN_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_MAX_FIELD_NUMBER: _ClassVar[int]
    lr_max: float
    steps: int
    pct_start: float
    div_factor: float
    final_div_factor: float
    momentum_min: float
    momentum_max: float
    def __init__(self, lr_max: _Optional[float] = ..., steps: _Optional[int] = ..., pct_start: _Optional[float] = ..., div_factor: _Optional[float] = ..., final_div_factor: _Optional[float] = ..., momentum_min: _Optional[float] = ..., momentum_max: _Optional[float] = ...) -> None: ...

class WarmupStableDecay(_message.Message):
    __slots__ = ("lr", "warmup_steps", "stable_steps", "decay_steps", "lr_end")
    LR_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    STABLE_STEPS_FIELD_NUMBER: _ClassVar[int]
    DECAY_STEPS_FIELD_NUMBER: _ClassVar[int]
    LR_END_FIELD_NUMBER: _ClassVar[int]
    lr: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    lr_end: float
    def __init__(self, lr: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., stable_steps: _Optional[int] = ..., decay_steps: _Optional[int] = ..., lr_end: _Optional[float] = ...) -> None: ...

class SequencePart(_message.Message):
    __slots__ = ("steps", "schedule")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    schedule: Schedule
    def __init__(self, steps: _Optional[int] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...

class Sequence(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[SequencePart]
    def __init__(self, parts: _Optional[_Iterable[_Union[SequencePart, _Mapping]]] = ...) -> None: ...

class TablePoint(_message.Message):
    __slots__ = ("step", "value")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    step: int
    value: float
    def __init__(self, step: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("points", "interpolation")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[TablePoint]
    interpolation: Interpolation
    def __init__(self, points: _Optional[_Iterable[_Union[TablePoint, _Mapping]]] = ..., interpolation: _Optional[_Union[Interpolation, str]] = ...) -> None: ...

class Plateau(_message.Message):
    __slots__ = ("lr", "factor", "patience", "threshold", "cooldown", "lr_min")
    LR_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    COOLDOWN_FIELD_NUMBER: _ClassVar[int]
    LR_MIN_FIELD_NUMBER: _ClassVar[int]
    lr: float
    factor: float
    patience: int
    threshold: float
    cooldown: int
    lr_min: float
    def __init__(self, lr: _Optional[float] = ..., factor: _Optional[float] = ..., patience: _Optional[int] = ..., threshold: _Optional[float] = ..., cooldown: _Optional[int] = ..., lr_min: _Optional[float] = ...) -> None: ...

class Consistency(_message.Message):
    __slots__ = ("sync", "ssp")
    SYNC_FIELD_NUMBER: _ClassVar[int]
    ASYNC_FIELD_NUMBER: _ClassVar[int]
    SSP_FIELD_NUMBER: _ClassVar[int]
    sync: Sync
    ssp: Ssp
    def __init__(self, sync: _Optional[_Union[Sync, _Mapping]] = ..., ssp: _Optional[_Union[Ssp, _Mapping]] = ..., **kwargs) -> None: ...

class Sync(_message.Message):
    __slots__ = ("workers", "workers_min", "quorum", "round_timeout_s")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_MIN_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    ROUND_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    workers: int
    workers_min: int
    quorum: int
    round_timeout_s: float
    def __init__(self, workers: _Optional[int] = ..., workers_min: _Optional[int] = ..., quorum: _Optional[int] = ..., round_timeout_s: _Optional[float] = ...) -> None: ...

class Async(_message.Message):
    __slots__ = ("staleness_max", "staleness_scale", "delay_compensation")
    STALENESS_MAX_FIELD_NUMBER: _ClassVar[int]
    STALENESS_SCALE_FIELD_NUMBER: _ClassVar[int]
    DELAY_COMPENSATION_FIELD_NUMBER: _ClassVar[int]
    staleness_max: int
    staleness_scale: StalenessScale
    delay_compensation: float
    def __init__(self, staleness_max: _Optional[int] = ..., staleness_scale: _Optional[_Union[StalenessScale, str]] = ..., delay_compensation: _Optional[float] = ...) -> None: ...

class Ssp(_message.Message):
    __slots__ = ("staleness",)
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    staleness: int
    def __init__(self, staleness: _Optional[int] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("job", "spec", "worker", "again")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    job: str
    spec: JobSpec
    worker: str
    again: bool
    def __init__(self, job: _Optional[str] = ..., spec: _Optional[_Union[JobSpec, _Mapping]] = ..., worker: _Optional[str] = ..., again: bool = ...) -> None: ...

class CreateJobResponse(_message.Message):
    __slots__ = ("header", "disposition", "upload_token", "upload_lease_ms", "limits", "spec_digest", "finished")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    disposition: CreateDisposition
    upload_token: int
    upload_lease_ms: int
    limits: Limits
    spec_digest: bytes
    finished: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., disposition: _Optional[_Union[CreateDisposition, str]] = ..., upload_token: _Optional[int] = ..., upload_lease_ms: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., spec_digest: _Optional[bytes] = ..., finished: bool = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("job", "upload_token", "payload_bytes", "layout_digest")
    JOB_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    job: str
    upload_token: int
    payload_bytes: int
    layout_digest: bytes
    def __init__(self, job: _Optional[str] = ..., upload_token: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., layout_digest: _Optional[bytes] = ...) -> None: ...

class UploadParametersRequest(_message.Message):
    __slots__ = ("header", "offset_bytes", "crc32c", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    offset_bytes: int
    crc32c: int
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., offset_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadParametersResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker", "epoch", "rank", "last_seq", "member", "lease_left", "rejections", "transport", "transport_detail", "last_push_ago", "idle")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_DETAIL_FIELD_NUMBER: _ClassVar[int]
    LAST_PUSH_AGO_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    epoch: int
    rank: int
    last_seq: int
    member: bool
    lease_left: _duration_pb2.Duration
    rejections: int
    transport: Transport
    transport_detail: str
    last_push_ago: _duration_pb2.Duration
    idle: _duration_pb2.Duration
    def __init__(self, worker: _Optional[str] = ..., epoch: _Optional[int] = ..., rank: _Optional[int] = ..., last_seq: _Optional[int] = ..., member: bool = ..., lease_left: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rejections: _Optional[int] = ..., transport: _Optional[_Union[Transport, str]] = ..., transport_detail: _Optional[str] = ..., last_push_ago: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idle: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RoundStatus(_message.Message):
    __slots__ = ("step", "learning_rate", "loss", "contributions", "hyper_parameters")
    class HyperParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    HYPER_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    step: int
    learning_rate: float
    loss: float
    contributions: int
    hyper_parameters: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., learning_rate: _Optional[float] = ..., loss: _Optional[float] = ..., contributions: _Optional[int] = ..., hyper_parameters: _Optional[_Mapping[str, float]] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("change", "lineage", "step", "requester", "unix_s", "revision")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    change: str
    lineage: str
    step: int
    requester: str
    unix_s: float
    revision: int
    def __init__(self, change: _Optional[str] = ..., lineage: _Optional[str] = ..., step: _Optional[int] = ..., requester: _Optional[str] = ..., unix_s: _Optional[float] = ..., revision: _Optional[int] = ...) -> None: ...

class JobCounters(_message.Message):
    __slots__ = ("applied", "discarded", "rejected", "duplicates", "rounds_void")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_VOID_FIELD_NUMBER: _ClassVar[int]
    applied: int
    discarded: int
    rejected: int
    duplicates: int
    rounds_void: int
    def __init__(self, applied: _Optional[int] = ..., discarded: _Optional[int] = ..., rejected: _Optional[int] = ..., duplicates: _Optional[int] = ..., rounds_void: _Optional[int] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("header", "state", "spec", "workers", "last_round", "counters", "waiting_for", "revision", "layout_digest", "schedules", "history", "workers_left_out", "history_left_out", "failure", "spec_digest", "steps_max")
    class SchedulesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Schedule
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    header: Header
    state: JobState
    spec: JobSpec
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    last_round: RoundStatus
    counters: JobCounters
    waiting_for: str
    revision: int
    layout_digest: bytes
    schedules: _containers.MessageMap[str, Schedule]
    history: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    workers_left_out: int
    history_left_out: int
    failure: str
    spec_digest: bytes
    steps_max: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., spec: _Optional[_Union[JobSpec, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., last_round: _Optional[_Union[RoundStatus, _Mapping]] = ..., counters: _Optional[_Union[JobCounters, _Mapping]] = ..., waiting_for: _Optional[str] = ..., revision: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., schedules: _Optional[_Mapping[str, Schedule]] = ..., history: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., workers_left_out: _Optional[int] = ..., history_left_out: _Optional[int] = ..., failure: _Optional[str] = ..., spec_digest: _Optional[bytes] = ..., steps_max: _Optional[int] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class JobSummary(_message.Message):
    __slots__ = ("job", "header", "state", "worker_count")
    JOB_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    job: str
    header: Header
    state: JobState
    worker_count: int
    def __init__(self, job: _Optional[str] = ..., header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., worker_count: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobSummary]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobSummary, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateJobRequest(_message.Message):
    __slots__ = ("job", "request_id", "expected_revision", "at_step", "schedules", "state", "requester", "steps_max")
    class SchedulesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Schedule
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    job: str
    request_id: str
    expected_revision: int
    at_step: int
    schedules: _containers.MessageMap[str, Schedule]
    state: JobState
    requester: str
    steps_max: int
    def __init__(self, job: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_revision: _Optional[int] = ..., at_step: _Optional[int] = ..., schedules: _Optional[_Mapping[str, Schedule]] = ..., state: _Optional[_Union[JobState, str]] = ..., requester: _Optional[str] = ..., steps_max: _Optional[int] = ...) -> None: ...

class UpdateJobResponse(_message.Message):
    __slots__ = ("header", "revision", "at_step")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    header: Header
    revision: int
    at_step: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., revision: _Optional[int] = ..., at_step: _Optional[int] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job", "with_snapshots", "expected_lineage", "requester")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WITH_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    job: str
    with_snapshots: bool
    expected_lineage: str
    requester: str
    def __init__(self, job: _Optional[str] = ..., with_snapshots: bool = ..., expected_lineage: _Optional[str] = ..., requester: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ("header", "snapshots_kept")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_KEPT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    snapshots_kept: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., snapshots_kept: _Optional[str] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class CreateSnapshotResponse(_message.Message):
    __slots__ = ("header", "snapshot")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    snapshot: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., snapshot: _Optional[str] = ...) -> None: ...

class StartRangeTestRequest(_message.Message):
    __slots__ = ("job", "lr_start", "lr_end", "steps", "request_id", "sweep", "requester")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LR_START_FIELD_NUMBER: _ClassVar[int]
    LR_END_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SWEEP_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    job: str
    lr_start: float
    lr_end: float
    steps: int
    request_id: str
    sweep: Sweep
    requester: str
    def __init__(self, job: _Optional[str] = ..., lr_start: _Optional[float] = ..., lr_end: _Optional[float] = ..., steps: _Optional[int] = ..., request_id: _Optional[str] = ..., sweep: _Optional[_Union[Sweep, str]] = ..., requester: _Optional[str] = ...) -> None: ...

class StartRangeTestResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class GetRangeTestRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class GetRangeTestResponse(_message.Message):
    __slots__ = ("header", "rounds", "done", "lr_base", "lr_max", "end", "explanation", "smoothed", "request_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LR_BASE_FIELD_NUMBER: _ClassVar[int]
    LR_MAX_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    rounds: _containers.RepeatedCompositeFieldContainer[RoundStatus]
    done: bool
    lr_base: float
    lr_max: float
    end: RangeTestEnd
    explanation: str
    smoothed: _containers.RepeatedScalarFieldContainer[float]
    request_id: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[RoundStatus, _Mapping]]] = ..., done: bool = ..., lr_base: _Optional[float] = ..., lr_max: _Optional[float] = ..., end: _Optional[_Union[RangeTestEnd, str]] = ..., explanation: _Optional[str] = ..., smoothed: _Optional[_Iterable[float]] = ..., request_id: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("job", "worker", "layout_digest", "spec_digest")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    layout_digest: bytes
    spec_digest: bytes
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., layout_digest: _Optional[bytes] = ..., spec_digest: _Optional[bytes] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("address", "element_start", "element_stop")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_START_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_STOP_FIELD_NUMBER: _ClassVar[int]
    address: str
    element_start: int
    element_stop: int
    def __init__(self, address: _Optional[str] = ..., element_start: _Optional[int] = ..., element_stop: _Optional[int] = ...) -> None: ...

class ShardMap(_message.Message):
    __slots__ = ("map_version", "shards")
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    map_version: int
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    def __init__(self, map_version: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ...) -> None: ...

class SharedMemoryOffer(_message.Message):
    __slots__ = ("socket", "detail")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    socket: str
    detail: str
    def __init__(self, socket: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class LocalCalls(_message.Message):
    __slots__ = ("socket", "token")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    socket: str
    token: bytes
    def __init__(self, socket: _Optional[str] = ..., token: _Optional[bytes] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("header", "epoch", "lease_ms", "shard_map", "rank", "world_size", "limits", "shared_memory", "local_calls")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    SHARD_MAP_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    LOCAL_CALLS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    epoch: int
    lease_ms: int
    shard_map: ShardMap
    rank: int
    world_size: int
    limits: Limits
    shared_memory: SharedMemoryOffer
    local_calls: LocalCalls
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., epoch: _Optional[int] = ..., lease_ms: _Optional[int] = ..., shard_map: _Optional[_Union[ShardMap, _Mapping]] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., shared_memory: _Optional[_Union[SharedMemoryOffer, _Mapping]] = ..., local_calls: _Optional[_Union[LocalCalls, _Mapping]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("job", "worker", "epoch", "failed")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    epoch: int
    failed: bool
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ..., failed: bool = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("job", "worker", "epoch", "transport", "transport_detail", "idle_ms")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_DETAIL_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    epoch: int
    transport: Transport
    transport_detail: str
    idle_ms: int
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ..., transport: _Optional[_Union[Transport, str]] = ..., transport_detail: _Optional[str] = ..., idle_ms: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("header", "lease_ms", "local_calls")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_CALLS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    lease_ms: int
    local_calls: LocalCalls
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., lease_ms: _Optional[int] = ..., local_calls: _Optional[_Union[LocalCalls, _Mapping]] = ...) -> None: ...

class PushHeader(_message.Message):
    __slots__ = ("job", "worker", "epoch", "seq", "base_version", "weight", "loss", "encoding", "payload_bytes", "attempt", "layout_digest", "shared_buffer")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHARED_BUFFER_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    epoch: int
    seq: int
    base_version: Version
    weight: float
    loss: float
    encoding: Encoding
    payload_bytes: int
    attempt: int
    layout_digest: bytes
    shared_buffer: int
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., base_version: _Optional[_Union[Version, _Mapping]] = ..., weight: _Optional[float] = ..., loss: _Optional[float] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., payload_bytes: _Optional[int] = ..., attempt: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., shared_buffer: _Optional[int] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("header", "offset_bytes", "crc32c", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    offset_bytes: int
    crc32c: int
    data: bytes
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., offset_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("status", "reason", "detail", "seq", "applied_step", "learning_rate", "staleness", "rank", "world_size")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    APPLIED_STEP_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    status: OutcomeStatus
    reason: OutcomeReason
    detail: str
    seq: int
    applied_step: int
    learning_rate: float
    staleness: int
    rank: int
    world_size: int
    def __init__(self, status: _Optional[_Union[OutcomeStatus, str]] = ..., reason: _Optional[_Union[OutcomeReason, str]] = ..., detail: _Optional[str] = ..., seq: _Optional[int] = ..., applied_step: _Optional[int] = ..., learning_rate: _Optional[float] = ..., staleness: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("header", "state", "outcome", "finished")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    state: PushState
    outcome: Outcome
    finished: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[PushState, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., finished: bool = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("job", "view", "encoding", "known_version", "worker", "epoch", "shared_memory")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    KNOWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    job: str
    view: View
    encoding: Encoding
    known_version: Version
    worker: str
    epoch: int
    shared_memory: bool
    def __init__(self, job: _Optional[str] = ..., view: _Optional[_Union[View, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., known_version: _Optional[_Union[Version, _Mapping]] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ..., shared_memory: bool = ...) -> None: ...

class ParametersHeader(_message.Message):
    __slots__ = ("version", "view", "encoding", "payload_bytes", "layout_digest", "location")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    view: View
    encoding: Encoding
    payload_bytes: int
    layout_digest: bytes
    location: Location
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ..., view: _Optional[_Union[View, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., payload_bytes: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., location: _Optional[_Union[Location, str]] = ...) -> None: ...

class PullResponse(_message.Message):
    __slots__ = ("header", "parameters", "offset_bytes", "crc32c", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: Header
    parameters: ParametersHeader
    offset_bytes: int
    crc32c: int
    data: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., parameters: _Optional[_Union[ParametersHeader, _Mapping]] = ..., offset_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("header", "crc32c", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    crc32c: int
    data: bytes
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("header", "state", "outcome", "parameters", "crc32c", "finished", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: Header
    state: PushState
    outcome: Outcome
    parameters: ParametersHeader
    crc32c: int
    finished: bool
    data: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[PushState, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., parameters: _Optional[_Union[ParametersHeader, _Mapping]] = ..., crc32c: _Optional[int] = ..., finished: bool = ..., data: _Optional[bytes] = ...) -> None: ...

class OpenSharedMemoryRequest(_message.Message):
    __slots__ = ("job", "worker", "epoch")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    epoch: int
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class OpenSharedMemoryResponse(_message.Message):
    __slots__ = ("header", "token", "token_ms", "segments", "payload_bytes", "socket")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    header: Header
    token: bytes
    token_ms: int
    segments: _containers.RepeatedScalarFieldContainer[Segment]
    payload_bytes: int
    socket: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., token: _Optional[bytes] = ..., token_ms: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[Segment, str]]] = ..., payload_bytes: _Optional[int] = ..., socket: _Optional[str] = ...) -> None: ...

class AwaitOutcomeRequest(_message.Message):
    __slots__ = ("job", "worker", "epoch", "seq")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    epoch: int
    seq: int
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class AwaitOutcomeResponse(_message.Message):
    __slots__ = ("header", "state", "outcome", "finished")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    state: PushState
    outcome: Outcome
    finished: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[PushState, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., finished: bool = ...) -> None: ...

class StageRequest(_message.Message):
    __slots__ = ("header", "element_start", "offset_bytes", "crc32c", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_START_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    element_start: int
    offset_bytes: int
    crc32c: int
    data: bytes
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., element_start: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StageResponse(_message.Message):
    __slots__ = ("header", "magnitude_max", "finite")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_MAX_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    magnitude_max: float
    finite: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., magnitude_max: _Optional[float] = ..., finite: bool = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("header", "magnitude_max", "finite")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_MAX_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    header: PushHeader
    magnitude_max: float
    finite: bool
    def __init__(self, header: _Optional[_Union[PushHeader, _Mapping]] = ..., magnitude_max: _Optional[float] = ..., finite: bool = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("header", "state", "outcome", "finished")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    state: PushState
    outcome: Outcome
    finished: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., state: _Optional[_Union[PushState, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., finished: bool = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("worker", "epoch", "seq", "scale", "share")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    epoch: int
    seq: int
    scale: float
    share: float
    def __init__(self, worker: _Optional[str] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., scale: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("job", "step", "contributions", "rows")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    rows: UpdateRows
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., rows: _Optional[_Union[UpdateRows, _Mapping]] = ...) -> None: ...

class UpdateRows(_message.Message):
    __slots__ = ("scalars", "limits")
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    scalars: _containers.RepeatedScalarFieldContainer[float]
    limits: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, scalars: _Optional[_Iterable[float]] = ..., limits: _Optional[_Iterable[float]] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("first_sums", "second_sums", "missing")
    FIRST_SUMS_FIELD_NUMBER: _ClassVar[int]
    SECOND_SUMS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    first_sums: _containers.RepeatedScalarFieldContainer[float]
    second_sums: _containers.RepeatedScalarFieldContainer[float]
    missing: _containers.RepeatedCompositeFieldContainer[Contribution]
    def __init__(self, first_sums: _Optional[_Iterable[float]] = ..., second_sums: _Optional[_Iterable[float]] = ..., missing: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("job", "step", "contributions", "rows")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    rows: UpdateRows
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., rows: _Optional[_Union[UpdateRows, _Mapping]] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("job", "step")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: int
    def __init__(self, job: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class AbortResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...
