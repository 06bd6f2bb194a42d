declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** A Kubernetes namespace's name. */
export type NamespaceName = Branded<string, "NamespaceName">;
/** A node's name (`spec.nodeName`). */
export type NodeName = Branded<string, "NodeName">;
/** `CLUSTER//Pod/NAMESPACE/NAME` or `CLUSTER/networking.istio.io/WorkloadEntry/NAMESPACE/NAME`. */
export type WorkloadUid = Branded<string, "WorkloadUid">;
/** `NAMESPACE/HOSTNAME`, the key of a service in ambient's discovery. */
export type ServiceKey = Branded<string, "ServiceKey">;
/** `NAMESPACE/NAME`, the key of an authorization in ambient's discovery. */
export type PolicyKey = Branded<string, "PolicyKey">;
/** `NETWORK/IP`, the name under which an address is asked for. */
export type AddressKey = Branded<string, "AddressKey">;
/** `KIND/NAMESPACE/NAME` of a user's object. */
export type ObjectKey = Branded<string, "ObjectKey">;

export const namespaceName = (name: string): NamespaceName => name as NamespaceName;
export const nodeName = (name: string): NodeName => name as NodeName;
export const podUid = (cluster: string, namespace: string, name: string): WorkloadUid =>
  `${cluster}//Pod/${namespace}/${name}` as WorkloadUid;
export const workloadEntryUid = (cluster: string, namespace: string, name: string): WorkloadUid =>
  `${cluster}/networking.istio.io/WorkloadEntry/${namespace}/${name}` as WorkloadUid;
export const serviceEntryUid = (cluster: string, namespace: string, name: string, ip: string): WorkloadUid =>
  `${cluster}/networking.istio.io/ServiceEntry/${namespace}/${name}/${ip}` as WorkloadUid;
export const serviceKey = (namespace: string, hostname: string): ServiceKey =>
  `${namespace}/${hostname}` as ServiceKey;
export const policyKey = (namespace: string, name: string): PolicyKey => `${namespace}/${name}` as PolicyKey;
export const addressKey = (network: string, ip: string): AddressKey => `${network}/${ip}` as AddressKey;
export const objectKey = (kind: string, namespace: string, name: string): ObjectKey =>
  `${kind}/${namespace}/${name}` as ObjectKey;
