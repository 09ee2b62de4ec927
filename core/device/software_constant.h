/* Included by GLSL and C: the specialization constant that every kernel has beside its own, whether the device is a software driver. */
#ifndef DSVK_SOFTWARE_CONSTANT_H
#define DSVK_SOFTWARE_CONSTANT_H

#define SOFTWARE_CONSTANT 32 /* behind the kernels' own, which are fewer */

#endif
