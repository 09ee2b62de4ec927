/* Included by GLSL and C: the specialization constants that every kernel has beside its own, about the device. */
#ifndef DSVK_DEVICE_CONSTANTS_H
#define DSVK_DEVICE_CONSTANTS_H

#define SOFTWARE_CONSTANT 32 /* these are behind the kernels' own, which are fewer */
#define FEW_REGISTERS_CONSTANT 33

#endif
