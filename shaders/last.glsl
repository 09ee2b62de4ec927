/* The workgroup that finishes last: what is left of a job when every workgroup has done its share is done by whichever of them
 * ends last, in the same dispatch. None waits for another, so nothing is asked of a driver's scheduling.
 *   1. a workgroup writes its share through `coherent` references,
 *   2. every invocation calls last_workgroup(counter, arrivals); `counter` is one u32 of the job's own that is 0 before,
 *   3. where it returned true, all `arrivals` shares are there for loads through `coherent` references, and the counter is 0
 *      again, ready for the next step.
 * Sums over shares have an order of their own, never the order of arrival. */
#extension GL_EXT_buffer_reference : require

layout(buffer_reference, scalar, buffer_reference_align = 4) coherent restrict buffer Counters { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer SharedFloats { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) coherent buffer SharedVec4s { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer SharedWords { uint v[]; };

shared bool last_arrived;

bool last_workgroup(uvec2 counter, uint arrivals) {
    memoryBarrierBuffer(); /* what this invocation wrote, before the arrival */
    barrier();             /* ... and all of them; an earlier call's answer has been read */
    if (invocation() == 0u) {
        last_arrived = atomicAdd(Counters(counter).v[0], 1u) + 1u == arrivals;
        if (last_arrived)
            Counters(counter).v[0] = 0u;
    }
    memoryBarrierBuffer(); /* the arrivals, before what is read after them */
    barrier();
    return last_arrived;
}
